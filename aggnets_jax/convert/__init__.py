"""Weights to and from PyTorch: the papers' reference implementations, torchvision and timm.

    variables = from_torch("densenet121", read_state_dict("densenet121-a639ec97.pth"))
    write_state_dict("densenet121.safetensors", to_torch("densenet121", variables))

A `state_dict` maps names to NumPy arrays: convolutions [out, in, height, width], linear layers
[out, in]. Missing and unknown entries, and other shapes, are errors. Two kinds of entries are
ignored: auxiliary heads, if the network has none, and the counters `num_batches_tracked` of
PyTorch's normalisations, which are written as 0.
"""

import contextlib
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from jax.typing import DTypeLike

from aggnets_jax import models
from aggnets_jax.convert.containers import take_off_prefix
from aggnets_jax.convert.files import check_mapping, read_state_dict, to_array, write_state_dict
from aggnets_jax.convert.names import DIALECTS, own_names, torch_names
from aggnets_jax.convert.names_of_compared import COMPARED, UNUSED
from aggnets_jax.convert.variants import (
    Facts,
    adapt_channels,
    change_epsilons,
    module_facts,
    print_twins,
)
from aggnets_jax.errors import UserError, unknown
from aggnets_jax.training.state import model_shapes

__all__ = ["from_torch", "read_state_dict", "to_torch", "weight_shapes", "write_state_dict"]

OWN = "aggnets"
"""Dialect of names made of our paths, which every network has."""

_VARIANCE, _COUNTER = ".running_var", ".num_batches_tracked"


def from_torch(
    name: str,
    state_dict: Mapping[str, np.ndarray],
    /,
    *,
    num_classes: int | None = None,
    input_shape: Sequence[int] | None = None,
    dtype: DTypeLike = np.float32,
    epsilon: float | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Convert weights of another implementation of a network.

    A prefix that all names have is taken off, and colour weights are adapted to images with
    another number of channels (see `variants`); both are printed, as are published variants of the
    network that have the same names.

    Args:
      name: network, as for `create_model`.
      state_dict: arrays by the names of the reference implementation, torchvision or timm.
      num_classes: number of classes; default the weights'.
      input_shape: (height, width, channels) of the images; default the paper's.
      dtype: dtype of the variables.
      epsilon: number that the other implementation adds to variances, if it is another one than
        here; it becomes a part of the scales.
      **overrides: as for `create_model`.

    Returns:
      Variables for `model.apply`: "params" and "batch_stats", NumPy arrays.

    Raises:
      UserError: for a network without known names, and for an entry that is missing, unknown, of
        another shape, not floating point, not finite in `dtype`, or a variance below 0.
    """
    dtype = _floating(dtype)
    check_mapping("state_dict", state_dict)
    if num_classes is None:
        with contextlib.suppress(UserError):  # a missing classifier is named below
            shapes = weight_shapes(name, state_dict, input_shape=input_shape, **overrides)
            num_classes = shapes.num_classes
    model, expected, facts = _network(name, num_classes, input_shape, overrides)
    names, state_dict = _best_names(model, name, expected, state_dict)
    print_twins(model)
    counters = {key.removesuffix(_VARIANCE) + _COUNTER for key in names if key.endswith(_VARIANCE)}
    unused = re.compile(UNUSED.get(type(model), "(?!)"))
    for key in state_dict:
        if key not in names and key not in counters and not unused.fullmatch(str(key)):
            raise unknown(f"weight of {name!r}", str(key), names)
    missing = [key for key in names if key not in state_dict]
    if missing:
        raise UserError(f"{len(missing)} weights of {name!r} are missing: {some(missing)}")
    converted = {}
    for key, path in names.items():
        value = to_array(key, state_dict[key])
        wanted = _torch_shape(expected[path])
        if path == facts.first_kernel:
            value = adapt_channels(key, value, wanted)
        if value.shape != wanted:
            raise UserError(f"{key!r} has the shape {value.shape}, {name!r} needs {wanted}")
        converted[path] = _from_torch_layout(cast_weights(key, value, dtype))
    if epsilon is not None:
        here = {path: (epsilon, own) for path, own in facts.epsilons.items()}
        converted |= change_epsilons(converted, here)
    return traverse_util.unflatten_dict(converted, sep="/")


class WeightShapes(NamedTuple):
    """Sizes that a network's weights have: its classes, and the channels of its images."""

    num_classes: int
    channels: int


def weight_shapes(
    name: str,
    state_dict: Mapping[str, np.ndarray],
    /,
    *,
    input_shape: Sequence[int] | None = None,
    **overrides: Any,
) -> WeightShapes:
    """Return the sizes that a network's weights have; arguments as for `from_torch`.

    Raises:
      UserError: for a network without known names, or weights without its first and last layer.
    """
    check_mapping("state_dict", state_dict)
    model, expected, facts = _network(name, None, input_shape, overrides)
    names, state_dict = _best_names(model, name, expected, state_dict)
    keys = {path: key for key, path in names.items()}

    def shape(path: str) -> tuple[int, ...]:
        key = keys.get(path, path)
        found = to_array(key, state_dict[key]).shape if key in state_dict else ()
        if len(found) < 2:
            raise UserError(f"the weights have no {key!r} of {name!r}")
        return found

    return WeightShapes(shape("params/classifier/kernel")[0], shape(facts.first_kernel)[1])


def to_torch(
    name: str,
    variables: Mapping[str, Any],
    /,
    *,
    num_classes: int | None = None,
    input_shape: Sequence[int] | None = None,
    dialect: str | None = None,
    epsilon: float | None = None,
    **overrides: Any,
) -> dict[str, np.ndarray]:
    """Convert "params" and "batch_stats" of a network to a state dict that `from_torch` takes.

    The dialect is the source of the names: "reference" (the authors of the paper), "torchvision" or
    "timm"; default the first of these that the network has. Every network has "aggnets", names made
    of our paths, "stage1.layer3.conv1.weight". `num_classes` is by default the
    family's; the others are as for `from_torch`.

    Raises:
      UserError: for a network or a dialect without known names, or variables of another network.
    """
    check_mapping("variables", variables)
    model, expected, facts = _network(name, num_classes, input_shape, overrides)
    dialects = _names(model, expected)
    if len(dialects) == 1 and dialect != OWN:
        raise _no_names(name)
    if dialect is None:
        dialect = next(iter(dialects))
    if dialect not in dialects:
        raise unknown(f"dialect of {name!r}", str(dialect), dialects)
    given = {}
    for keys, value in traverse_util.flatten_dict(dict(variables)).items():
        path = "/".join(map(str, keys))
        given[path] = to_array(path, value)
    for path in given.keys() | expected.keys():
        here = given[path].shape if path in given else "missing"
        if here != expected.get(path):
            raise UserError(
                f"the variables don't fit {name!r} with {model.num_classes} classes:"
                f" {path!r} is {here} and must be {expected.get(path, 'left out')}"
            )
    if epsilon is not None:
        there = {path: (own, epsilon) for path, own in facts.epsilons.items()}
        given |= change_epsilons(given, there)
    state_dict = {}
    for key, path in dialects[dialect].items():
        state_dict[key] = _to_torch_layout(given[path])
        if key.endswith(_VARIANCE):
            state_dict[key.removesuffix(_VARIANCE) + _COUNTER] = np.zeros((), np.int64)
    return state_dict


def _network(
    name: str,
    num_classes: int | None,
    input_shape: Sequence[int] | None,
    overrides: Mapping[str, Any],
) -> tuple[nn.Module, dict[str, tuple[int, ...]], Facts]:
    """Make the network; return it, the shapes of its variables by path, and facts about it."""
    model = models.create_classifier(name, num_classes, **overrides)
    shape = models.input_shape(name) if input_shape is None else input_shape
    shape = models.check_image_shape(shape)
    return model, dict(_shapes(model, shape)), module_facts(model, shape)


@functools.lru_cache(maxsize=4)  # weights often go to and fro
def _shapes(model: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
    variables = model_shapes(model, image_shape)
    variables.pop("strength", None)  # a regularisation's, no weight
    return {k: v.shape for k, v in traverse_util.flatten_dict(variables, sep="/").items()}


def _names(model: nn.Module, paths: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return our paths by the names of each dialect that has a name for every path, ours last."""
    dialects = {
        dialect: names
        for known in (DIALECTS, COMPARED)
        for dialect, rules in known.get(type(model), {}).items()
        if (names := torch_names(rules(model), paths))
    }
    return {**dialects, OWN: own_names(paths)}


def _best_names(
    model: nn.Module, name: str, paths: Mapping[str, Any], state_dict: Mapping[str, Any]
) -> tuple[dict[str, str], Mapping[str, Any]]:
    """Return our paths by the names of the dialect that fits best, and weights without a prefix."""
    dialects = _names(model, paths)
    state_dict = take_off_prefix(state_dict, dialects.values())
    fitting = {
        dialect: len(names.keys() & state_dict.keys()) for dialect, names in dialects.items()
    }
    best = max(fitting, key=fitting.get)
    if len(dialects) == 1 and 2 * fitting[OWN] <= len(state_dict):
        raise _no_names(name)
    return dialects[best], state_dict


def _no_names(name: str) -> UserError:
    return UserError(f"no other implementation's names are known for {name!r} as configured")


def _floating(dtype: DTypeLike) -> np.dtype:
    with contextlib.suppress(TypeError):  # no dtype at all
        if jnp.issubdtype(found := jnp.dtype(dtype), jnp.floating):
            return found
    raise UserError(f"dtype must be a floating-point one such as float32, got {dtype!r}")


def cast_weights(key: str, value: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Cast weights, and check that a network can have them; raise `UserError` if not."""
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise UserError(f"{key!r} must hold floating-point numbers, not {value.dtype}")
    with np.errstate(over="ignore"):
        cast = value.astype(dtype)
    if not np.isfinite(cast).all():
        raise UserError(f"{key!r} must hold numbers that are finite as {dtype}")
    if key.endswith(_VARIANCE) and (cast < 0).any():
        raise UserError(f"{key!r} must hold variances, which are at least 0, got {cast.min()}")
    return cast


def some(names: Sequence[str]) -> str:
    """Return the first three names, for a message."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _from_torch_layout(array: np.ndarray) -> np.ndarray:
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in (3, 2, 0, 1)) if len(shape) == 4 else shape[::-1]


def _to_torch_layout(array: np.ndarray) -> np.ndarray:
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
