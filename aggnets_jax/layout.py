"""Variables of networks with and without loops over layers: the one from the other.

With loops the variables of layers `first` to `last` of a stage are arrays with an axis of layers in
front, under the name `layers{first}_{last}` (`scan.py`); without, those of each layer are under
`layer{number}`. Whatever is shaped like variables can be moved, the state of an optimiser too.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

_RUN = re.compile(r"layers(\d+)_(\d+)")


def stacked(tree: Any, like: Any) -> Any:
    """A tree of a network without loops as one of the network with loops.

    Args:
      tree: with arrays.
      like: has the structure and the shapes of the result.
    """
    return _map(tree, like, _stack)


def unstacked(tree: Any, like: Any) -> Any:
    """The same the other way."""
    return _map(tree, like, _unstack)


def _map(tree: Any, like: Any, convert: Any) -> Any:
    """Converts the mappings that have variables of layers, wherever they are in a tree."""
    is_mapping = lambda node: isinstance(node, Mapping)
    nodes, wanted = (jax.tree.leaves(part, is_leaf=is_mapping) for part in (tree, like))
    structure = jax.tree.structure(like, is_leaf=is_mapping)
    return structure.unflatten(
        convert(node, other) if is_mapping(node) else node
        for node, other in zip(nodes, wanted, strict=True)
    )


def _stack(tree: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    result = {}
    for name, wanted in like.items():
        if run := _RUN.fullmatch(name):
            layers = range(int(run[1]), int(run[2]) + 1)
            parts = [tree[f"layer{layer}"] for layer in layers]
            result[name] = jax.tree.map(_padded_stack, wanted, *parts)
        else:
            result[name] = _stack(tree[name], wanted) if isinstance(wanted, Mapping) else tree[name]
    return result


def _unstack(tree: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    runs = {}
    for name in tree:
        if run := _RUN.fullmatch(name):
            runs |= {
                f"layer{n}": (name, n - int(run[1])) for n in range(int(run[1]), int(run[2]) + 1)
            }
    result = {}
    for name, wanted in like.items():
        if name in runs:
            run, number = runs[name]
            cut = lambda y, x: x[number][tuple(slice(size) for size in y.shape)]
            result[name] = jax.tree.map(cut, wanted, tree[run])
        else:
            result[name] = (
                _unstack(tree[name], wanted) if isinstance(wanted, Mapping) else tree[name]
            )
    return result


def _padded_stack(like: Any, *parts: jax.Array) -> jax.Array:
    """[layers, ...] of arrays that are padded with zeros to the widest."""
    pads = [[(0, n - m) for m, n in zip(x.shape, like.shape[1:], strict=True)] for x in parts]
    return jnp.stack([jnp.pad(x, pad) for x, pad in zip(parts, pads, strict=True)])
