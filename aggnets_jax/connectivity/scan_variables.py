"""Variables of a network with loops over its layers, and those of the same network without.

With loops the variables of layers `first` to `last` of a stage are arrays with an axis of layers in
front, under the name `layers{first}_{last}` (see `scan.py`); without, those of each layer are under
`layer{number}`. What is shaped like variables has the same form: the state of an optimiser, too.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

_RUN = re.compile(r"layers(\d+)_(\d+)")


def run_of(name: str) -> range | None:
    """The layers whose variables have this name, if it is that of a run of several."""
    found = _RUN.fullmatch(name)
    return found and range(int(found[1]), int(found[2]) + 1)


def rearranged(tree: Any, like: Any) -> Any:
    """A tree of variables, or one that contains such, in the form of another.

    Args:
      tree: of arrays, without an axis of seeds.
      like: of the same network, with or without loops; only structure and shapes are read.

    Returns:
      What is in `tree`, structured as `like`. Weights that a loop has for channels which a layer
      does not read are zero.
    """

    def is_mapping(node: Any) -> bool:
        return isinstance(node, Mapping)

    nodes = jax.tree.leaves(tree, is_leaf=is_mapping)
    wanted, structure = jax.tree.flatten(like, is_leaf=is_mapping)
    return structure.unflatten(
        _rearranged(node, other) if is_mapping(node) else node
        for node, other in zip(nodes, wanted, strict=True)
    )


def _rearranged(tree: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    in_runs = {
        f"layer{layer}": (name, number)
        for name in tree
        for number, layer in enumerate(run_of(name) or ())
    }
    result = {}
    for name, wanted in like.items():
        if name in tree:
            value = tree[name]
            result[name] = _rearranged(value, wanted) if isinstance(value, Mapping) else value
        elif layers := run_of(name):
            parts = [tree[f"layer{layer}"] for layer in layers]
            result[name] = jax.tree.map(_stacked, wanted, *parts)
        else:
            run, number = in_runs[name]
            result[name] = jax.tree.map(lambda y, x, n=number: _cut(x[n], y), wanted, tree[run])
    return result


def _stacked(like: Any, *parts: jax.Array) -> jax.Array:
    """[layers, ...] of arrays that are padded with zeros to the widest."""
    pads = [[(0, n - m) for m, n in zip(x.shape, like.shape[1:], strict=True)] for x in parts]
    return jnp.stack([jnp.pad(x, pad) for x, pad in zip(parts, pads, strict=True)])


def _cut(x: jax.Array, like: Any) -> jax.Array:
    return x[tuple(map(slice, like.shape))]
