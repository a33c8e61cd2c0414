"""Networks by name: `create_model`, `list_models`, `model_info`.

A family is a function that builds a network from keyword arguments. Names such as
`sparsenet_bc100_k24` are parsed by the family's pattern into some of them, so that every depth and
growth rate that a family admits has a name; the networks of the papers' tables are the ones listed.
"""

import dataclasses
import fnmatch
import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import ml_collections
from flax import linen as nn

from aggnets_jax import config as config_lib
from aggnets_jax.arguments import check_arguments, check_whole_number
from aggnets_jax.connectivity.execution import Execution
from aggnets_jax.errors import UserError, unknown
from aggnets_jax.models.flops import Convention, Count, count, count_operations, multiply_adds

# How any network is computed, which is no matter of its family.
EXECUTION = tuple(field.name for field in dataclasses.fields(Execution))


@dataclasses.dataclass(frozen=True)
class Printed:
    """What a paper prints about a network.

    Attributes:
      table: of the paper.
      params: as printed, such as "1.5M", or None.
      error: top-1 error in percent by data set, "cifar10" with standard augmentation and so on.
      flops: as printed, in the paper's own convention, or None.
      note: where the print and the network differ.
    """

    table: str
    params: str | None = None
    error: Mapping[str, float] = dataclasses.field(default_factory=dict)
    flops: str | None = None
    note: str | None = None


@dataclasses.dataclass(frozen=True)
class Family:
    """Networks that differ in numbers only.

    Attributes:
      name: such as "sparsenet_bc".
      build: makes the module from `num_classes` and further keyword arguments.
      pattern: of the names; its groups are keyword arguments of `build`.
      parse: what makes an argument of the text of a group; where it says nothing, a whole number,
        a tuple of them if they are joined by "_", or the text itself.
      paper: where the family comes from.
      input_shape: (height, width, channels) that the counts are for.
      num_classes: the default head.
      flops: how the paper counts them.
    """

    name: str
    build: Callable[..., nn.Module]
    pattern: re.Pattern[str]
    parse: Mapping[str, Callable[[str], Any]]
    paper: str
    input_shape: tuple[int, int, int]
    num_classes: int
    flops: Convention


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """What is known of a network without running it.

    Attributes:
      name: as asked for.
      family: that it belongs to.
      input_shape: (height, width, channels) that the MACs are for.
      num_classes: size of the logits.
      params: trainable scalars.
      macs: multiply-adds of convolutions and linear layers for one image.
      parts: both by the part of the network, in the order of computation.
      links: of all stages, without those of the stages' outputs (SparseNet, eq. 4).
      paper: where the network comes from.
      table: of the paper, or None.
      printed: what the paper prints, or None.
    """

    name: str
    family: str
    input_shape: tuple[int, int, int]
    num_classes: int
    params: int
    macs: int
    parts: Mapping[str, Count]
    links: int
    paper: str
    table: str | None
    printed: Printed | None


# Of a whole number that a network is built from, such as its depth, a width or its classes.
MAX_NUMBER = 999_999
DTYPES = ("float16", "bfloat16", "float32", "float64")

_FAMILIES: dict[str, Family] = {}
_PRINTED: dict[str, Printed] = {}


def register_family(
    name: str,
    build: Callable[..., nn.Module],
    *,
    pattern: str,
    paper: str,
    printed: Mapping[str, Printed],
    parse: Mapping[str, Callable[[str], Any]] | None = None,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    num_classes: int = 10,
    flops: Convention = multiply_adds,
) -> None:
    """Registers a family and networks that are listed, see `Family`.

    Of two patterns that match a name the one registered first is taken. Families may share what is
    printed: a row is a network of the family whose pattern it matches.
    """
    regex = re.compile(pattern, re.ASCII)
    family = Family(name, build, regex, parse or {}, paper, input_shape, num_classes, flops)
    _FAMILIES[name] = family
    _PRINTED.update(printed)


def _argument(text: str) -> int | tuple[int, ...] | str:
    if not re.fullmatch(r"\d+(_\d+)*", text):
        return text
    numbers = tuple(map(int, text.split("_")))
    return numbers[0] if len(numbers) == 1 else numbers


def _find(name: str) -> tuple[Family, dict[str, Any]]:
    """The family of a name and the arguments that the name contains."""
    name = str(name)
    if name in _FAMILIES:
        return _FAMILIES[name], {}
    for family in _FAMILIES.values():
        if match := family.pattern.fullmatch(name):
            found = {k: v for k, v in match.groupdict().items() if v is not None}
            for argument, text in found.items():
                _check_digits(argument, text)
            return family, {k: family.parse.get(k, _argument)(v) for k, v in found.items()}
    raise unknown("model", name, [*_PRINTED, *_FAMILIES])


def _check_digits(argument: str, text: str) -> None:
    """Before they are parsed, which Python refuses for thousands of digits."""
    digits = max(map(len, re.findall(r"\d+", text)), default=0)
    if digits > len(str(MAX_NUMBER)):
        raise UserError(f"{argument!r} has {digits} digits; allowed: at most {MAX_NUMBER}")


def _check_size(argument: str, value: Any) -> None:
    values = value if isinstance(value, list | tuple) else [value]
    if any(isinstance(number, numbers.Integral) and number > MAX_NUMBER for number in values):
        raise UserError(f"{argument!r} is too large a number; allowed: at most {MAX_NUMBER}")


def _check_dtype(dtype: Any) -> None:
    try:
        known = dtype is not None and jnp.dtype(dtype).name in DTYPES
    except TypeError:
        known = False
    if not known:
        raise UserError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")


def check_image_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """Returns (height, width, channels) of images.

    Raises:
      UserError: unless they are three whole numbers, not too large and at least 1.
    """
    sides = tuple(shape) if isinstance(shape, list | tuple) else ()
    whole = all(isinstance(n, numbers.Integral) and not isinstance(n, bool) for n in sides)
    if len(sides) != 3 or not whole or not all(1 <= n <= MAX_NUMBER for n in sides):
        raise UserError(
            "input_shape must be height, width and channels, three whole numbers from 1 to"
            f" {MAX_NUMBER}, got {shape!r}"
        )
    height, width, channels = map(int, sides)
    return height, width, channels


def create_model(name: str, /, num_classes: int | None = None, **overrides: Any) -> nn.Module:
    """Makes a network.

    Args:
      name: a listed network, any other of a family's pattern (`densenet_bc160_k18`), or a family
        with its numbers in `overrides` (`"sparsenet_bc", depth=100, growth_rate=24`).
      num_classes: size of the logits; default that of the family.
      **overrides: keyword arguments of the family, such as `topology="windowed"`,
        `topology_args={"window": 4}`, `aggregation`, `dropout`, `dtype`; and the fields of
        `Execution`: `remat`, `scan`, `shared_statistics`.

    Returns:
      A linen module, `module.apply(variables, images, train=...) -> (logits, endpoints)`.

    Raises:
      UserError: for an unknown name (the nearest are listed), an unknown override, numbers that
        fit no network, or a dtype that is not floating point.
    """
    family, arguments = _find(name)
    if num_classes is None:
        num_classes = family.num_classes
    check_whole_number("num_classes", num_classes, 1)
    how = {name: overrides.pop(name) for name in EXECUTION if name in overrides}
    arguments = {"num_classes": num_classes, **arguments, **overrides}
    check_arguments(f"model {name!r}", family.build, arguments)
    for argument, value in arguments.items():
        _check_size(argument, value)
    if "dtype" in arguments:
        _check_dtype(arguments["dtype"])
    model = family.build(**arguments)
    return model.clone(execution=Execution(**how)) if how else model


def create_configured_model(config: ml_collections.ConfigDict, num_classes: int) -> nn.Module:
    """Makes the network of a config.

    Args:
      config: whole; `model` and `dtype` are read.
      num_classes: that of the data set.

    Raises:
      UserError: as `create_model`.
    """
    arguments = config_lib.model_arguments(config)
    return create_model(config.model.name, num_classes, dtype=jnp.dtype(config.dtype), **arguments)


def find_printed(name: str, /) -> Printed | None:
    """What a paper prints about a network, if the network is a listed one."""
    return _PRINTED.get(name)


def find_family(name: str, /) -> Family:
    """The family that a network belongs to; raises `UserError` for an unknown name."""
    return _find(name)[0]


def input_shape(name: str, /) -> tuple[int, int, int]:
    """(height, width, channels) of the images that a network's paper gives it."""
    return _find(name)[0].input_shape


def list_models(pattern: str = "*") -> list[str]:
    """Names of the networks in the papers' tables, by a shell pattern: `"sparsenet*"`."""
    return sorted(fnmatch.filter(_PRINTED, pattern))


def list_families() -> list[str]:
    """Names of the families, each a function of numbers such as depth and growth rate."""
    return sorted(_FAMILIES)


def model_info(name: str, /, num_classes: int | None = None, **overrides: Any) -> ModelInfo:
    """What is known of a network without running it.

    Args:
      name: as for `create_model`.
      num_classes: as for `create_model`.
      **overrides: as for `create_model`, and `input_shape`, (height, width, channels) that the
        MACs are to be counted for.

    Raises:
      UserError: as `create_model`, and for images that fit no network or are too small for it.
    """
    family, _ = _find(name)
    shape = check_image_shape(overrides.pop("input_shape", family.input_shape))
    model = create_model(name, num_classes, **overrides)
    parts = count(model, shape)
    printed = None if overrides else _PRINTED.get(name)
    return ModelInfo(
        name=name,
        family=family.name,
        input_shape=shape,
        num_classes=model.num_classes,
        params=sum(part.params for part in parts.values()),
        macs=sum(part.macs for part in parts.values()),
        parts=parts,
        links=sum(topology.num_links for topology in model.topologies),
        paper=family.paper,
        table=printed.table if printed else None,
        printed=printed,
    )


def paper_flops(name: str, /, num_classes: int | None = None, **overrides: Any) -> float:
    """FLOPs of a network for one image in its paper's convention, see `aggnets_jax.models.flops`.

    Args:
      name: as for `create_model`.
      num_classes: as for `create_model`.
      **overrides: as for `model_info`.

    Raises:
      UserError: as `model_info`.
    """
    family, _ = _find(name)
    shape = check_image_shape(overrides.pop("input_shape", family.input_shape))
    model = create_model(name, num_classes, **overrides)
    count(model, shape)  # refuses images that are too small
    return family.flops(count_operations(model, shape))
