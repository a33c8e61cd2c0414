"""How the gradient of a batch is computed: by each device, from divided parameters, in parts.

Each function takes a function of (parameters, batch statistics, examples, fixed variables, key)
that returns ((loss, (updated batch statistics, sums)), gradients), and returns another one. The
examples are a tree of arrays whose first axis is the batch, the sums a dict of arrays [].
"""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jax.typing import DTypeLike

from aggnets_jax.connectivity.features import shift_over_devices, statistics_over
from aggnets_jax.errors import UserError
from aggnets_jax.runtime import mesh as mesh_lib

GradientFn = Callable[[Any, Any, Any, dict[str, Any], jax.Array], Any]


def average_over_devices(gradient_fn: GradientFn, mesh: Mesh, group: int = 1) -> GradientFn:
    """Compute the function on each device for its part of the batch, and average.

    Batch statistics are of the examples of `group` neighbouring devices.
    """
    axes = mesh.axis_names
    groups = mesh_lib.neighbours(mesh.size, group)

    def on_device(*arguments: Any) -> Any:
        *others, key = arguments
        key = jax.random.fold_in(key, jax.lax.axis_index(axes))
        with statistics_over(axes, groups) if group > 1 else contextlib.nullcontext():
            (loss, (batch_stats, sums)), gradients = gradient_fn(*others, key)  # type: ignore[call-arg]
        loss, batch_stats, gradients = jax.lax.pmean((loss, batch_stats, gradients), axes)
        return (loss, (batch_stats, jax.lax.psum(sums, axes))), gradients

    everywhere, over_batch = PartitionSpec(), mesh_lib.over_batch(mesh)
    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(everywhere, everywhere, over_batch, everywhere, everywhere),
        out_specs=everywhere,
        # Otherwise the gradient of shared parameters would be summed over devices already.
        check_vma=False,
    )


def devices_of_statistics(batch_norm: str, devices: int) -> int:
    """Return over how many of the devices batch statistics are taken: all for "global".

    Raises:
      UserError: if the groups of "group:N" can't have N devices each.
    """
    kind, _, size = batch_norm.partition(":")
    if kind != "group":
        return 1 if kind == "device" else devices
    group = min(int(size), devices)
    if devices % group:
        raise UserError(
            f"config.batch_norm {batch_norm!r}: {devices} devices have no groups of {group};"
            f" allowed: divisors of {devices}"
        )
    return group


def gather_params(gradient_fn: GradientFn, mesh: Mesh) -> GradientFn:
    """Gather parameters that are divided over devices, and divide the gradients."""

    def with_whole_params(params: Any, *others: Any) -> Any:
        whole = jax.lax.with_sharding_constraint(params, mesh_lib.replicated(mesh))
        values, gradients = gradient_fn(whole, *others)
        parts = mesh_lib.state_sharding(mesh, gradients, "fsdp")
        return values, jax.lax.with_sharding_constraint(gradients, parts)

    return with_whole_params


def inside_mesh(
    function: Callable[..., Any], mesh: Mesh, *, shifted: bool = False
) -> Callable[..., Any]:
    """Trace a function with the mesh as context, and with shifted statistics if asked for."""
    shift = shift_over_devices if shifted else contextlib.nullcontext

    def in_context(*arguments: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), shift():
            return function(*arguments)

    return in_context


def accumulate_parts(
    gradient_fn: GradientFn, parts: int, sums: Mapping[str, DTypeLike]
) -> GradientFn:
    """Compute the function for parts of the batch, one after another, and average.

    `sums` has the names and dtypes of the sums that the function returns.
    """
    if parts == 1:
        return gradient_fn

    def accumulate(params: Any, batch_stats: Any, examples: Any, fixed: Any, key: Any) -> Any:
        def part(carry: Any, inputs: Any) -> tuple[Any, None]:
            batch_stats, total = carry
            examples, key = inputs
            (loss, (batch_stats, found)), gradients = gradient_fn(
                params, batch_stats, examples, fixed, key
            )
            return (batch_stats, jax.tree.map(jnp.add, total, (loss, found, gradients))), None

        # Every parts-th example, so that each device keeps to the examples that it holds.
        split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), examples)
        nothing = {name: jnp.zeros((), dtype) for name, dtype in sums.items()}
        zeros = (jnp.zeros(()), nothing, jax.tree.map(jnp.zeros_like, params))
        (batch_stats, (loss, found, gradients)), _ = jax.lax.scan(
            part, (batch_stats, zeros), (split, jax.random.split(key, parts))
        )
        mean = jax.tree.map(lambda g: g / parts, gradients)
        return (loss / parts, (batch_stats, found)), mean

    return accumulate
