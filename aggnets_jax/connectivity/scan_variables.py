"""Variables of layers in loops: their names and shapes, initial values, and other layouts.

With loops, the variables of the layers `first` to `last` of a stage are arrays with an axis of
layers in front, named `layers{first}_{last}`. Without loops, and for a single layer, the variables
of each layer are named `layer{number}`. Trees that contain such variables, such as the state of an
optimiser, have the same two layouts.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aggnets_jax.connectivity.scan_buffers import Run
from aggnets_jax.connectivity.scan_plan import Plan
from aggnets_jax.connectivity.unit import Layer, Unit

_NAME_OF_RUN = re.compile(r"layers(\d+)_(\d+)")


def layers_of_run(name: str) -> range | None:
    """Return the layers of the variables `name`, or None if it is not a run of several layers."""
    found = _NAME_OF_RUN.fullmatch(name)
    return found and range(int(found[1]), int(found[2]) + 1)


def match_layout(tree: Any, like: Any) -> Any:
    """Return variables, or a tree that contains some, in the layout of another tree.

    Args:
      tree: arrays, without an axis of seeds. In a loop, weights for unread channels become zero.
      like: the same for the same network, with or without loops; only structure and shapes count.
    """

    def is_mapping(node: Any) -> bool:
        return isinstance(node, Mapping)

    nodes = jax.tree.leaves(tree, is_leaf=is_mapping)
    wanted, structure = jax.tree.flatten(like, is_leaf=is_mapping)
    return jax.tree.unflatten(
        structure,
        [
            _match(node, other) if is_mapping(node) else node
            for node, other in zip(nodes, wanted, strict=True)
        ],
    )


def _match(tree: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    in_runs = {
        f"layer{layer}": (name, number)
        for name in tree
        for number, layer in enumerate(layers_of_run(name) or ())
    }
    result = {}
    for name, wanted in like.items():
        if name in tree:
            value = tree[name]
            result[name] = _match(value, wanted) if isinstance(value, Mapping) else value
        elif layers := layers_of_run(name):
            parts = [tree[f"layer{layer}"] for layer in layers]
            result[name] = jax.tree.map(_stack, wanted, *parts)
        else:
            run, number = in_runs[name]
            result[name] = jax.tree.map(partial(_cut, number), wanted, tree[run])
    return result


def _stack(like: Any, *parts: jax.Array) -> jax.Array:
    """Stack arrays, padded with zeros to the widest, to [layers, ...]."""
    pads = [[(0, n - m) for m, n in zip(x.shape, like.shape[1:], strict=True)] for x in parts]
    return jnp.stack([jnp.pad(x, pad) for x, pad in zip(parts, pads, strict=True)])


def _cut(number: int, like: Any, x: jax.Array) -> jax.Array:
    return x[number][tuple(map(slice, like.shape))]


def init_run(unit: Unit, plan: Plan, run: Run, buffer: Any, key: jax.Array) -> dict[str, Any]:
    """Draw the initial variables of a run by collection; `buffer` has the shapes of the buffer."""
    sources = run.sources[0] if run.single else np.array(run.sources[0], np.int32)
    read = jax.eval_shape(lambda b: plan.buffer.read(b, run, sources), buffer)

    def init(key: jax.Array, unread: int = 0) -> Any:
        inputs = plan.inputs(jax.tree.map(lambda y: jnp.zeros(y.shape, y.dtype), read))
        inputs = jax.tree.map(lambda x: x[..., : x.shape[-1] - unread], inputs)
        keys = dict.fromkeys(("params", "dropout"), key)
        variables = Layer(unit, run.first, parent=None).init(keys, *inputs)
        return {name: tree[f"layer{run.first}"] for name, tree in variables.items()}

    keys = keys_of_run(key, run)
    variables = init(keys) if run.single else jax.vmap(init)(keys)
    if not run.single and (widths := plan.widths(run)):
        unread = max(widths) - np.array(widths)
        narrowest = jax.eval_shape(lambda: init(jax.random.key(0), max(unread)))
        variables = jax.tree.map(partial(_zero_unread, unread), variables, narrowest)
    return variables


def keys_of_run(key: jax.Array, run: Run) -> jax.Array:
    """Return a key for each layer of a run, or the key of its only layer."""
    if run.single:
        return jax.random.fold_in(key, run.first)
    layers = jnp.arange(run.first, run.last + 1)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, layers)


def _zero_unread(unread: np.ndarray, values: jax.Array, narrowest: Any) -> jax.Array:
    """Set the values [layers, ...] for the last `unread` [layers] channels of each layer to zero.

    `narrowest` has the shape of a layer that reads `max(unread)` channels less; the axes in which
    it differs are axes of input channels.
    """
    for axis, (most, least) in enumerate(zip(values.shape[1:], narrowest.shape, strict=True)):
        if most != least:
            read = np.arange(most) < most - unread[:, None]
            shape = [len(unread), *[1] * axis, most, *[1] * (values.ndim - axis - 2)]
            values = jnp.where(read.reshape(shape), values, 0)
    return values
