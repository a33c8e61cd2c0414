"""Networks by name: `create_model`, `list_models`, `model_info`.

A family is a function that builds networks from keyword arguments. The pattern of a family parses
arguments from names such as `sparsenet_bc100_k24`, so every allowed depth and growth rate has a
name. `list_models` lists the networks of the papers' tables.
"""

import dataclasses
import fnmatch
import inspect
import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
import ml_collections
from flax import linen as nn

from aggnets_jax import config as config_lib
from aggnets_jax import hub
from aggnets_jax.arguments import check_arguments, check_whole_number
from aggnets_jax.config_fields.plugins import import_installed
from aggnets_jax.connectivity.execution import Execution
from aggnets_jax.errors import UserError, one_line, unknown
from aggnets_jax.models import papers
from aggnets_jax.models.family_arguments import (
    Argument,
    check_timm,
    list_arguments,
    parameters,
)
from aggnets_jax.models.features import make_features
from aggnets_jax.models.flops import Convention, Count, count, count_operations, multiply_adds
from aggnets_jax.models.on_hub import network_on_hub

# Arguments of every family: how a network is computed, not what it computes.
EXECUTION = tuple(field.name for field in dataclasses.fields(Execution))

# Arguments of `register_family` for networks of the ImageNet size.
IMAGENET = {"input_shape": (224, 224, 3), "num_classes": 1000}

# Largest depth, width, number of classes, or other number that a network is built from.
MAX_NUMBER = 999_999
DTYPES = ("float16", "bfloat16", "float32", "float64")


@dataclasses.dataclass(frozen=True)
class Family:
    """Networks that differ only in numbers.

    Attributes:
      name: name of the family, such as "sparsenet_bc".
      build: function that makes the module from `num_classes` and further keyword arguments; see
        `family_arguments.parameters` for its `**fields`.
      pattern: pattern of the networks' names; its groups are keyword arguments of `build`.
      parse: functions that make an argument of a group's text. By default the argument is a whole
        number, a tuple of whole numbers that are joined by "_", or the text itself.
      paper: paper of the family.
      input_shape: (height, width, channels) of the images that the counts are for.
      num_classes: default number of classes.
      flops: the paper's convention for counting FLOPs.
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
    """Facts about a network, computed without running it.

    Attributes:
      name: name of the network, as given.
      family: name of its family.
      input_shape: (height, width, channels) of the images that the MACs are for.
      num_classes: size of the logits.
      params: trainable scalars.
      macs: multiply-adds of convolutions and linear layers for one image.
      parts: parameters and MACs of each part of the network, in the order of computation.
      links: number of links into layers, without those into the stages' outputs (SparseNet, eq. 4).
      paper: paper of the family.
      table: table of the paper that prints the network, or None.
      printed: the paper's row about the network, or None.
      arguments: keyword arguments of the family, by name.
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
    printed: papers.Printed | None
    arguments: Mapping[str, Argument]


_FAMILIES: dict[str, Family] = {}


def register_family(
    name: str,
    build: Callable[..., nn.Module],
    *,
    pattern: str,
    paper: str,
    parse: Mapping[str, Callable[[str], Any]] | None = None,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    num_classes: int = 10,
    flops: Convention = multiply_adds,
) -> None:
    """Register a family; see `Family` for the arguments.

    If two patterns match a name, it belongs to the family that was registered first.
    """
    regex, build = re.compile(pattern, re.ASCII), _with_fields(build)
    family = Family(name, build, regex, parse or {}, paper, input_shape, num_classes, flops)
    _FAMILIES[name] = family


def _with_fields(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Return `build` with all keyword arguments in its signature, in the place of `**fields`."""
    signature = inspect.signature(build, eval_str=True)
    signature = signature.replace(parameters=[*parameters(build).values()])
    build = partial(build)
    build.__signature__ = signature  # type: ignore[attr-defined]
    return build


def _argument(text: str) -> int | tuple[int, ...] | str:
    if not re.fullmatch(r"\d+(_\d+)*", text):
        return text
    numbers = tuple(map(int, text.split("_")))
    return numbers[0] if len(numbers) == 1 else numbers


def _find(name: str) -> tuple[Family, dict[str, Any]]:
    """Return the family of a name and the arguments that the name contains."""
    if not isinstance(name, str):
        given = one_line(repr(name).partition("(")[0])
        raise UserError(f"a network is given by its name, such as 'resnet18', not by {given}")
    if name in _FAMILIES:
        return _FAMILIES[name], {}
    for family in _FAMILIES.values():
        if match := family.pattern.fullmatch(name):
            found = {k: v for k, v in match.groupdict().items() if v is not None}
            for argument, text in found.items():
                _check_digits(argument, text)
            return family, {k: family.parse.get(k, _argument)(v) for k, v in found.items()}
    raise unknown("model", name, [*papers.first_rows(), *_FAMILIES])


def _check_digits(argument: str, text: str) -> None:
    """Check the length of numbers before they are parsed: Python refuses thousands of digits."""
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
    """Return the (height, width, channels) of images.

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


def create_model(
    name: str,
    /,
    num_classes: int | None = None,
    *,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    output_stride: int | None = None,
    frozen_stages: int = 0,
    evaluated_norms: Sequence[str] = (),
    **overrides: Any,
) -> nn.Module:
    """Make a network.

    Args:
      name: a listed network, any other name that fits a family's pattern (`densenet_bc160_k18`),
        a family with its numbers in `overrides` (`"sparsenet_bc", depth=100, growth_rate=24`), or
        a network on the Hugging Face Hub, `hf-hub:USER/NAME`, of which the weights are apart.
      num_classes: size of the logits; default: the family's.
      features_only: whether to return features at several strides instead of logits. Only then the
        following arguments are allowed; see `features.make_features` for them.
      out_indices: levels to return.
      output_stride: largest stride of a map.
      frozen_stages: stages without gradients, with the stem.
      evaluated_norms: shell patterns of the paths of normalisations that don't train.
      **overrides: arguments of the family (`model_info(name).arguments` lists them), and the fields
        of `Execution`: `remat`, `scan`, `shared_statistics`. Most families have `topology`, for
        example the name of a pattern, or one for each stage; `topology_args`, the pattern's
        arguments such as `{"window": 4}`, or one mapping for each stage; `aggregation`; `dtype`.

    Returns:
      A linen module. `module.apply(variables, images, train=False)` takes float images [batch,
      height, width, channels] and returns the logits [batch, num_classes] and the endpoints, a
      dict of features by name; with `features_only`, a tuple of levels.

    Raises:
      UserError: for an unknown name or override (the message has the nearest), numbers that fit no
        network, or a dtype that is not floating point.
    """
    if hub.is_on_hub(name):
        name, classes, arguments = network_on_hub(name)
        num_classes = classes if num_classes is None else num_classes
        overrides = {**arguments, **overrides}
    chosen = {
        "out_indices": out_indices,
        "output_stride": output_stride,
        "frozen_stages": frozen_stages,
        "evaluated_norms": evaluated_norms,
    }
    if not isinstance(features_only, bool):
        raise UserError(f"features_only must be True or False, got {features_only!r}")
    if features_only:
        network = create_classifier(name, num_classes, **overrides)
        return make_features(name, network, input_shape(name), **chosen)
    for argument, value in chosen.items():
        if value:
            raise UserError(f"{argument}={value!r} is for features: set features_only=True")
    return create_classifier(name, num_classes, **overrides)


def create_classifier(name: str, /, num_classes: int | None = None, **overrides: Any) -> nn.Module:
    """Make a network as `create_model` does, but only with its logits."""
    family, arguments = _find(name)
    if num_classes is None:
        num_classes = family.num_classes
    allowed = inspect.signature(family.build).parameters
    check_timm(name, {"num_classes": num_classes, **overrides}, allowed)
    check_whole_number("num_classes", num_classes, 1)
    execution = {name: overrides.pop(name) for name in EXECUTION if name in overrides}
    arguments = {"num_classes": num_classes, **arguments, **overrides}
    check_arguments(name, family.build, arguments)
    for argument, value in arguments.items():
        _check_size(argument, value)
    if "dtype" in arguments:
        _check_dtype(arguments["dtype"])
    model = family.build(**arguments)
    return model.clone(execution=Execution(**execution)) if execution else model


def create_configured_model(config: ml_collections.ConfigDict, num_classes: int) -> nn.Module:
    """Make the network of a config.

    Args:
      config: whole config; `model` and `dtype` are read.
      num_classes: number of classes of the data set.

    Raises:
      UserError: as `create_model`.
    """
    arguments = {"dtype": jnp.dtype(config.dtype), **config_lib.model_arguments(config)}
    try:
        return create_classifier(config.model.name, num_classes, **arguments)
    except UserError as error:
        for problem in import_installed(config.plugins):
            raise UserError(f"{error}; {problem}") from error
        raise


def find_printed(name: str, /) -> papers.Printed | None:
    """Return the paper's row about a network, or None for a network that is not listed."""
    return papers.first_rows().get(name)


def find_family(name: str, /) -> Family:
    """Return the family of a network; raise `UserError` for an unknown name."""
    return _find(name)[0]


def input_shape(name: str, /) -> tuple[int, int, int]:
    """Return (height, width, channels) of the images in the network's paper."""
    return _find(name)[0].input_shape


def list_models(*patterns: str | Sequence[str]) -> list[str]:
    """Return the names of the papers' networks that match a shell pattern such as "sparsenet*".

    With several patterns, or a list of them, a name must match one; without any, all are returned.
    """
    known, texts = papers.first_rows(), []
    for pattern in patterns or ("*",):
        several = pattern if isinstance(pattern, list | tuple) else [pattern]
        if not all(isinstance(text, str) for text in several):
            raise UserError(f"patterns of names must be texts, got {pattern!r}")
        texts += several
    return sorted({name for text in texts for name in fnmatch.filter(known, text)})


def list_families() -> list[str]:
    """Return the names of all families."""
    return sorted(_FAMILIES)


def model_info(name: str, /, num_classes: int | None = None, **overrides: Any) -> ModelInfo:
    """Return facts about a network, such as parameters, MACs and links, without running it.

    Args:
      name: as for `create_model`.
      num_classes: as for `create_model`.
      **overrides: as for `create_model`; also `input_shape`, the (height, width, channels) of the
        images for which MACs are counted.

    Raises:
      UserError: as `create_model`, and for images that the network can't take.
    """
    family, shape, model, parts = _counted(name, num_classes, overrides)
    printed = None if overrides else find_printed(name)
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
        arguments=list_arguments(family.build),
    )


def paper_flops(name: str, /, num_classes: int | None = None, **overrides: Any) -> float:
    """Return a network's FLOPs for one image in its paper's convention, see `models.flops`.

    Args:
      name: as for `create_model`.
      num_classes: as for `create_model`.
      **overrides: as for `model_info`.

    Raises:
      UserError: as `model_info`.
    """
    family, shape, model, _ = _counted(name, num_classes, overrides)
    return family.flops(count_operations(model, shape))


def _counted(
    name: str, num_classes: int | None, overrides: dict[str, Any]
) -> tuple[Family, tuple[int, int, int], nn.Module, dict[str, Count]]:
    """Return family, image shape, module and counts; take `input_shape` out of the overrides."""
    family, _ = _find(name)
    shape = check_image_shape(overrides.pop("input_shape", family.input_shape))
    model = create_classifier(name, num_classes, **overrides)
    return family, shape, model, count(model, shape)
