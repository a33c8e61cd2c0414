"""Weights of the reference PyTorch implementations, by name.

`from_torch` takes a mapping of names to arrays, the content of a `state_dict`; how it was read is
the caller's business, so that nothing here unpickles.
"""

import re
from collections.abc import Callable, Mapping

import jax
import numpy as np
from flax import linen as nn
from flax import traverse_util

from aggnets_jax.errors import UserError, unknown
from aggnets_jax.models.sparsenet import SparseNet

Rule = tuple[str, Callable[[re.Match], str]]
"""A pattern of the reference's module names, and the path here that a match stands for."""

# https://github.com/Lyken17/SparseNet numbers stages and transitions from 0, layers from 1.
_SPARSENET: tuple[Rule, ...] = (
    (r"features\.conv0", lambda m: "stem_conv"),
    (r"features\.norm0", lambda m: "stem_norm"),
    (
        r"features\.dense-stage-(\d+)\.block-(\d+)\.(?:bn|(conv))(\d)",
        lambda m: f"stage{int(m[1]) + 1}/layer{m[2]}/{m[3] or 'norm'}{m[4]}",
    ),
    (
        r"features\.transition-(\d+)\.(?:bn|(conv))1",
        lambda m: f"transition{int(m[1]) + 1}/{m[2] or 'norm'}",
    ),
    (r"features\.norm_last", lambda m: "head_norm"),
    (r"classifier\.linear", lambda m: "classifier"),
)

RULES: dict[type[nn.Module], tuple[Rule, ...]] = {SparseNet: _SPARSENET}


def from_torch(
    model: nn.Module, state_dict: Mapping[str, np.ndarray], input_shape: tuple[int, int, int]
) -> dict[str, dict]:
    """Converts the weights of the reference implementation of a network.

    Args:
      model: the network here, see `create_model`.
      state_dict: arrays by the reference's names, convolutions [out, in, height, width], linear
        layers [out, in].
      input_shape: (height, width, channels) of the images.

    Returns:
      Variables for `model.apply`: "params" and "batch_stats", NumPy arrays of the given dtypes.

    Raises:
      UserError: for a network without a reference, a name that is unknown or missing, or an array
        of another shape.
    """
    if type(model) not in RULES:
        raise UserError(f"no reference weights are known for {type(model).__name__}")
    variables = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, *input_shape)))
    expected = traverse_util.flatten_dict(variables, sep="/")
    converted = {}
    for name, array in state_dict.items():
        if name.endswith(".num_batches_tracked"):
            continue
        path, value = _convert(RULES[type(model)], name, np.asarray(array))
        if path not in expected:
            raise unknown(f"weight (from {name!r})", path, expected)
        if value.shape != expected[path].shape:
            raise UserError(
                f"{name!r} has the shape {np.shape(array)}, which is {value.shape} here;"
                f" {path} has {expected[path].shape}"
            )
        converted[path] = value
    missing = sorted(set(expected) - set(converted))
    if missing:
        raise UserError(f"{len(missing)} weights are missing, the first is {missing[0]}")
    return traverse_util.unflatten_dict(converted, sep="/")


def _convert(rules: tuple[Rule, ...], name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    module, _, leaf = name.rpartition(".")
    matches = ((re.fullmatch(pattern, module), path) for pattern, path in rules)
    path = next((path(match) for match, path in matches if match), None)
    if path is None:
        raise UserError(f"no rule for the weight {name!r}")
    collection, ours = {
        "weight": ("params", "scale" if array.ndim == 1 else "kernel"),
        "bias": ("params", "bias"),
        "running_mean": ("batch_stats", "mean"),
        "running_var": ("batch_stats", "var"),
    }.get(leaf, ("", ""))
    if not ours:
        raise UserError(f"weight {name!r} ends in {leaf!r}; allowed: weight, bias, running_*")
    if ours == "kernel":
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    return f"{collection}/{path}/{ours}", array
