"""Gradients of a trained network, split by the number of steps that they have taken.

The gradient at an output y_s of a stage is a sum over the paths that lead to it. If every step of a
path multiplies the gradient by t, it is a polynomial in t, and the coefficient of t^k is the part
of the paths with k steps. The factor is on gradients only: a step is the identity y -> y with the
gradient g -> t g. Activations, and the gradients of each layer, are the trained network's.

Gradients travel back as the coefficients of this polynomial, up to a degree. Every image is in the
batch once for each coefficient, copy k carries coefficient k, and a step shifts the copies by one.
A network in evaluation treats each image by itself, so this is exact: the coefficient of a length
without paths is 0.

Steps are `computed` (through a layer's F) and, in a stage of shortcuts, `shortcut` (past it). At
each layer, a step can be counted or not, and can pass gradients or not (see `taps.py`). In a stage
of the reading form, the links into its layers are computed steps, and so is the link to its output.
"""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from aggnets_jax.analysis.taps import tapped
from aggnets_jax.connectivity.links import StageLinks
from aggnets_jax.runtime.compilation import compiler_options
from aggnets_jax.training.losses import cross_entropy
from aggnets_jax.training.state import Variables


class Steps(NamedTuple):
    """Treatment of the gradients in one stage; factors are float32 [N + 2], N is its depth."""

    computed: Any  # factors of the gradients through F of each layer
    shortcut: Any  # factors of the gradients past it
    count_computed: Any  # whether a step through F shifts
    count_shortcut: Any  # whether a step past it shifts
    seeds: Any  # factors of the gradients that start at each output, besides the loss


def steps_of(stage: StageLinks) -> Steps:
    """Return steps that are all open, none of them counted, without seeds."""
    size = stage.topology.depth + 2
    ones = np.ones(size, np.float32)
    return Steps(ones, ones, False, False, np.zeros(size, np.float32))


Backward = Callable[..., dict[str, jax.Array]]
"""`(variables, images, labels, steps, loss) -> norms`, see `make_backward`."""


def make_backward(model: nn.Module, stages: Mapping[str, StageLinks], copies: int) -> Backward:
    """Make the compiled function that splits gradients in some stages of a network.

    `copies` is the number of coefficients, of t^0, ..., t^(copies - 1).

    Returns:
      A function of the variables, images, labels, the `Steps` of each stage, and the factor of the
      loss (the cross entropy of each image). Where a stage has seeds, gradients start at a random
      direction in the output, too. It returns by stage the L2 norms of the gradients at each
      output, float32 [N + 2, copies, B], the stage's inputs first; 0 for outputs that the stage
      does not have.
    """

    def backward(
        variables: Variables,
        images: jax.Array,
        labels: jax.Array,
        steps: Mapping[str, Steps],
        loss: jax.Array,
    ) -> dict[str, jax.Array]:
        images = jnp.tile(images, (copies, 1, 1, 1))
        apply = partial(model.apply, variables, images, train=False)
        objective = partial(_objective, apply, labels, stages, steps, loss)
        gradients = jax.grad(objective)(_zeros_written(apply, stages))
        return {
            name: _norms(gradients[name], stage.topology.depth + 2, copies)
            for name, stage in stages.items()
        }

    return jax.jit(backward, compiler_options=compiler_options())


def _objective(
    apply: Callable[[], Any],
    labels: jax.Array,
    stages: Collection[str],
    steps: Mapping[str, Steps],
    loss: jax.Array,
    shifts: Mapping[str, Mapping[int, Any]],
) -> jax.Array:
    """Return the value to differentiate with respect to `shifts`, zeros added to each output.

    Only the first copy of each image, as many as there are labels, has a part in it.
    """
    first = slice(0, len(labels))
    directions = []

    def move(kind: str, stage: str, layer: int, value: Any) -> Any:
        if stage not in stages:
            return value
        factor = getattr(steps[stage], kind)[layer]
        counts = getattr(steps[stage], f"count_{kind}")
        return jax.tree.map(lambda x: _step(len(x) // len(labels), x, factor, counts), value)

    def written(stage: str, layer: int, value: Any) -> Any:
        if stage not in stages:
            return value
        value = jax.tree.map(jnp.add, value, shifts[stage][layer])
        for leaf in jax.tree.leaves(value):
            key = jax.random.fold_in(jax.random.key(0), len(directions))
            direction = jax.random.normal(key, leaf[first].shape)
            product = jnp.sum(leaf[first].astype(jnp.float32) * direction)
            directions.append(steps[stage].seeds[layer] * product)
        return value

    moves = {kind: partial(move, kind) for kind in ("computed", "shortcut")}
    with tapped(**moves, written=written):
        logits, _ = apply()
    return loss * jnp.sum(cross_entropy(logits[first], labels)) + sum(directions)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _step(copies: int, x: jax.Array, factor: jax.Array, counts: jax.Array) -> jax.Array:
    """Return x, with a gradient that is multiplied, and moves to the next copy if it counts."""
    del copies, factor, counts
    return x


def _step_backward(copies: int, residuals: Any, gradient: jax.Array) -> Any:
    factor, counts = residuals
    by_copy = gradient.reshape(copies, -1, *gradient.shape[1:])
    moved = jnp.concatenate([jnp.zeros_like(by_copy[:1]), by_copy[:-1]])
    result = jnp.where(counts, moved, by_copy) * factor.astype(gradient.dtype)
    return result.reshape(gradient.shape), None, None


_step.defvjp(lambda copies, x, *residuals: (x, residuals), _step_backward)


def _zeros_written(apply: Callable[[], Any], stages: Collection[str]) -> dict[str, dict[int, Any]]:
    """Return zeros in the shape of each output, by stage and layer."""
    shapes: dict[str, dict[int, Any]] = {name: {} for name in stages}

    def note(stage: str, layer: int, value: Any) -> Any:
        if stage in stages:
            shapes[stage][layer] = jax.eval_shape(lambda x: x, value)
        return value

    with tapped(written=note):
        jax.eval_shape(apply)
    return jax.tree.map(lambda like: jnp.zeros(like.shape, like.dtype), shapes)


def _norms(gradients: Mapping[int, Any], size: int, copies: int) -> jax.Array:
    """Return the norms [size, copies, B] of gradients by layer."""

    def square(leaf: jax.Array) -> jax.Array:
        by_copy = leaf.astype(jnp.float32).reshape(copies, -1, *leaf.shape[1:])
        return jnp.sum(by_copy**2, axis=range(2, by_copy.ndim))

    norms = {n: jnp.sqrt(sum(map(square, jax.tree.leaves(g)))) for n, g in gradients.items()}
    nothing = jnp.zeros_like(next(iter(norms.values())))
    return jnp.stack([norms.get(layer, nothing) for layer in range(size)])
