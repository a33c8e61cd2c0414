"""Weights to and from PyTorch: the papers' reference implementations, torchvision and timm.

A `state_dict` is a mapping of names to NumPy arrays here, convolutions [out, in, height, width],
linear layers [out, in].
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax import traverse_util
from jax.typing import DTypeLike

from aggnets_jax.convert.names import DIALECTS, torch_name
from aggnets_jax.errors import UserError, unknown
from aggnets_jax.models import create_model, input_shape

_COUNTER = "num_batches_tracked"


def from_torch(
    name: str,
    state_dict: Mapping[str, np.ndarray],
    *,
    num_classes: int | None = None,
    dtype: DTypeLike = np.float32,
    **overrides: Any,
) -> dict[str, Any]:
    """Converts weights of another implementation of a network.

    Args:
      name: of the network here, see `create_model`.
      state_dict: arrays by the names of the reference implementation, torchvision or timm.
      num_classes: see `create_model`.
      dtype: of the variables.
      **overrides: see `create_model`.

    Returns:
      Variables for `model.apply`: "params" and "batch_stats", NumPy arrays.

    Raises:
      UserError: for a network without known names, a name that is missing or unknown, or an array
        of another shape.
    """
    model = create_model(name, num_classes, **overrides)
    expected = _shapes(model, name)
    names = _closest(_names(model, name, expected), state_dict)
    given = {key: value for key, value in state_dict.items() if not key.endswith(_COUNTER)}
    extra = sorted(set(given) - set(names))
    if extra:
        raise unknown(f"weight for {name!r}", extra[0], names)
    missing = sorted(set(names) - set(given))
    if missing:
        raise UserError(
            f"{len(missing)} weights of {name!r} are missing, the first is {missing[0]!r}"
        )
    converted = {}
    for key, value in given.items():
        value, path = np.asarray(value), names[key]
        array = _from_torch_layout(value)
        if array.shape != expected[path]:
            there = _to_torch_layout(np.empty(expected[path])).shape
            raise UserError(f"{key!r} has the shape {value.shape}, {name!r} needs {there}")
        converted[path] = array.astype(dtype)
    return traverse_util.unflatten_dict(converted, sep="/")


def to_torch(
    name: str,
    variables: Mapping[str, Any],
    *,
    num_classes: int | None = None,
    dialect: str = "reference",
    **overrides: Any,
) -> dict[str, np.ndarray]:
    """The inverse of `from_torch`.

    Args:
      name: of the network here, see `create_model`.
      variables: "params" and "batch_stats" of it.
      num_classes: see `create_model`.
      dialect: whose names to give: "reference", "torchvision" or "timm".
      **overrides: see `create_model`.

    Returns:
      Arrays by name, with the counters of batches that PyTorch's normalisations keep (0).

    Raises:
      UserError: for a network or a dialect without known names, or variables of another network.
    """
    model = create_model(name, num_classes, **overrides)
    expected = _shapes(model, name)
    dialects = _names(model, name, expected)
    if dialect not in dialects:
        raise unknown(f"dialect of {name!r}", dialect, dialects)
    given = traverse_util.flatten_dict(
        {key: variables[key] for key in ("params", "batch_stats") if key in variables}, sep="/"
    )
    if {path: np.shape(value) for path, value in given.items()} != expected:
        raise UserError(f"the variables are not those of {name!r} with {model.num_classes} classes")
    state_dict = {}
    for key, path in dialects[dialect].items():
        state_dict[key] = _to_torch_layout(np.asarray(given[path]))
        if key.endswith(".running_var"):
            state_dict[key.removesuffix("running_var") + _COUNTER] = np.zeros((), np.int64)
    return state_dict


def _shapes(model: nn.Module, name: str) -> dict[str, tuple[int, ...]]:
    images = np.zeros((1, *input_shape(name)), np.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    return {k: v.shape for k, v in traverse_util.flatten_dict(variables, sep="/").items()}


def _names(model: nn.Module, name: str, paths: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """By dialect, our paths by the names there."""
    if type(model) not in DIALECTS:
        raise UserError(f"no other implementation's names are known for {name!r}")
    return {
        dialect: {torch_name(rules, path): path for path in paths}
        for dialect, rules in DIALECTS[type(model)].items()
    }


def _closest(
    dialects: Mapping[str, dict[str, str]], state_dict: Mapping[str, Any]
) -> dict[str, str]:
    return max(dialects.values(), key=lambda names: len(names.keys() & state_dict.keys()))


def _from_torch_layout(array: np.ndarray) -> np.ndarray:
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _to_torch_layout(array: np.ndarray) -> np.ndarray:
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
