"""Gradients of a batch: by each device, from divided parameters, in accumulated parts.

Each function takes a function of (parameters, batch statistics, examples, fixed variables, key)
that returns ((loss, (updated batch statistics, sums)), gradients), and returns another one. The
examples are a tree of arrays whose first axis is the batch, the sums a dict of arrays [].
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec
from jax.typing import DTypeLike

from aggnets_jax.arguments import check_number, check_whole_number
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


class Phases:
    """Parts of a run in which images are scaled down to one side each.

    Args:
      pairs: (fraction of the run, side in pixels), as `config.progressive`.
      total_steps: number of updates in the run.
      image_shape: [height, width, channels] of the images.

    Attributes:
      sides: of the images, one after another.

    Raises:
      UserError: if the fractions do not rise from 0 to below 1, or a side is larger than the image.
    """

    def __init__(self, pairs: Sequence[Any], total_steps: int, image_shape: Sequence[int]) -> None:
        wanted = "pairs of a fraction of the run and a side, such as ((0.0, 128), (0.5, 224))"
        if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
            raise UserError(f"config.progressive must be {wanted}, got {tuple(pairs)}")
        fractions = [fraction for fraction, _ in pairs]
        for fraction, side in pairs:
            check_number("a fraction of config.progressive", fraction, 0, 1)
            check_whole_number("a side of config.progressive", side, 1, min(image_shape[:2]))
        if fractions and (fractions[0] != 0 or sorted({*fractions, 1.0})[:-1] != fractions):
            raise UserError(
                f"the fractions of config.progressive must rise from 0, got {fractions}"
            )
        self._starts = np.array([round(f * total_steps) for f in fractions], np.int32)
        self.sides = [side for _, side in pairs]

    def __bool__(self) -> bool:
        return bool(self.sides)

    def gradient(self, gradient_fn: GradientFn, step: jax.Array) -> GradientFn:
        """Compute the function for scaled images: one of several programs, chosen by step."""

        def scaled(side: int, params: Any, batch_stats: Any, examples: Any, *others: Any) -> Any:
            images = examples.images
            if images.shape[1:3] != (side, side):
                shape = (len(images), side, side, images.shape[-1])
                examples = examples._replace(images=jax.image.resize(images, shape, "linear"))
            return gradient_fn(params, batch_stats, examples, *others)

        phase = jnp.searchsorted(jnp.asarray(self._starts), step, side="right") - 1
        return partial(jax.lax.switch, phase, [partial(scaled, side) for side in self.sides])


def at_sharpest(
    gradient_fn: GradientFn, radius: float, trained: Callable[[Any], Any]
) -> GradientFn:
    """Take the gradient where the loss is highest near the parameters (SAM, arXiv 2010.01412).

    This point is p + radius * g / |g|, g being the gradient of the batch for the `trained`
    parameters. Loss, batch statistics and sums are those at p.
    """

    def sharpened(params: Any, *others: Any) -> Any:
        values, gradients = gradient_fn(params, *others)
        frozen = jax.tree.map(lambda is_trained: not is_trained, trained(params))
        ascent = jax.tree.map(lambda g, fix: jnp.zeros_like(g) if fix else g, gradients, frozen)
        norm = optax.tree.norm(ascent)
        # Where all gradients are 0, there is no ascent.
        scale = radius / jnp.where(norm > 0, norm, 1)
        _, gradients = gradient_fn(optax.tree.add_scale(params, scale, ascent), *others)
        return values, gradients

    return sharpened
