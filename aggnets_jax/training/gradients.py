"""How the gradient of a batch is computed: by each device, from divided parameters, in parts."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from aggnets_jax.runtime import mesh as mesh_lib


class Examples(NamedTuple):
    """What a network is trained with.

    Attributes:
      images: float32 [batch, height, width, channels].
      targets: labels int32 [batch], or probabilities float32 [batch, classes].
      labels: int32 [batch].
    """

    images: jax.Array
    targets: jax.Array
    labels: jax.Array


GradientFn = Callable[[Any, Any, Examples, dict[str, Any], jax.Array], Any]
"""From parameters, batch statistics, examples, fixed variables and a key to ((loss, (updated batch
statistics, hits)), gradients)."""


def average_over_devices(gradient_fn: GradientFn, mesh: Mesh) -> GradientFn:
    """What `gradient_fn` returns for the part of a batch on each device, averaged."""

    def on_device(
        params: Any, batch_stats: Any, examples: Examples, fixed: dict[str, Any], key: jax.Array
    ) -> Any:
        key = jax.random.fold_in(key, jax.lax.axis_index("data"))
        (loss, (batch_stats, correct)), gradients = gradient_fn(
            params, batch_stats, examples, fixed, key
        )
        loss, batch_stats, gradients = jax.lax.pmean((loss, batch_stats, gradients), "data")
        return (loss, (batch_stats, jax.lax.psum(correct, "data"))), gradients

    everywhere, over_batch = PartitionSpec(), PartitionSpec("data")
    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(everywhere, everywhere, over_batch, everywhere, everywhere),
        out_specs=everywhere,
        # Else the gradient of what all devices share would be summed over them already.
        check_vma=False,
    )


def gather_params(gradient_fn: GradientFn, mesh: Mesh) -> GradientFn:
    """What `gradient_fn` returns for parameters of which each device has a part."""

    def of_parts(params: Any, *others: Any) -> Any:
        whole = jax.lax.with_sharding_constraint(params, mesh_lib.replicated(mesh))
        values, gradients = gradient_fn(whole, *others)
        parts = mesh_lib.state_sharding(mesh, gradients, "fsdp")
        return values, jax.lax.with_sharding_constraint(gradients, parts)

    return of_parts


def inside_mesh(gradient_fn: GradientFn, mesh: Mesh) -> GradientFn:
    """The same, where what is traced knows the mesh over which the batch is divided."""

    def knowing(*arguments: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return gradient_fn(*arguments)

    return knowing


def accumulate_parts(gradient_fn: GradientFn, parts: int) -> GradientFn:
    """What `gradient_fn` returns for a batch, computed in as many parts one after another."""
    if parts == 1:
        return gradient_fn

    def accumulate(
        params: Any, batch_stats: Any, examples: Examples, fixed: dict[str, Any], key: jax.Array
    ) -> Any:
        def part(carry: Any, inputs: Any) -> tuple[Any, None]:
            batch_stats, sums = carry
            examples, key = inputs
            (loss, (batch_stats, correct)), gradients = gradient_fn(
                params, batch_stats, examples, fixed, key
            )
            return (batch_stats, jax.tree.map(jnp.add, sums, (loss, correct, gradients))), None

        # Every parts-th example, so that each device keeps to the examples that it holds.
        split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), examples)
        zeros = (jnp.zeros(()), jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))
        (batch_stats, (loss, correct, gradients)), _ = jax.lax.scan(
            part, (batch_stats, zeros), (split, jax.random.split(key, parts))
        )
        mean = jax.tree.map(lambda g: g / parts, gradients)
        return (loss / parts, (batch_stats, correct)), mean

    return accumulate
