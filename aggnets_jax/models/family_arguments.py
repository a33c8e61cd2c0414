"""Arguments of families: type, default, meaning, and timm's names for some of them.

The arguments of a family are the keyword arguments of the function that builds its networks, and
the fields with a default of the module that the function returns. Both docstrings have their
meanings.
"""

import functools
import inspect
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from jax.typing import DTypeLike

from aggnets_jax.connectivity.topology import TopologyArgs, TopologyLike
from aggnets_jax.errors import UserError

_UNLISTED = {"execution", "parent", "name"}
_ALIASES = {"TopologyLike": TopologyLike, "TopologyArgs": TopologyArgs, "DTypeLike": DTypeLike}


class Argument(NamedTuple):
    """A keyword argument of a family.

    Attributes:
      type: annotation, as text.
      default: default value; `inspect.Parameter.empty` if it must be given, by name or argument.
      meaning: text from the documentation.
    """

    type: str
    default: Any
    meaning: str


def parameters(build: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the keyword arguments of a function that builds networks, by name.

    `**fields` are `num_classes` and the optional arguments of the module that the function returns,
    or of the function that an annotation `**fields: Annotated[Any, function]` names.
    """
    return {name: parameter for name, (parameter, _) in _with_owners(build).items()}


def list_arguments(build: functools.partial) -> dict[str, Argument]:
    """Return types, defaults and meanings of the arguments of a family's `build`."""
    owners = {name: owner for name, (_, owner) in _with_owners(build.func).items()}
    return {
        name: Argument(
            _readable(parameter.annotation),
            parameter.default,
            _meanings(owners[name]).get(name, ""),
        )
        for name, parameter in inspect.signature(build).parameters.items()
    }


def _readable(annotation: Any) -> str:
    """Return an annotation as it is written in the code."""
    if annotation is inspect.Parameter.empty:
        return "Any"
    text = inspect.formatannotation(annotation)
    for name, alias in _ALIASES.items():
        text = text.replace(inspect.formatannotation(alias), name)
    return re.sub(r"\b([a-z_]\w*\.)+", "", text)


def _with_owners(build: Callable[..., Any]) -> dict[str, tuple[inspect.Parameter, Any]]:
    """Return arguments by name, each with the function or class whose docstring explains it."""
    signature = inspect.signature(build, eval_str=True)
    found = {}
    for name, parameter in signature.parameters.items():
        if parameter.kind is not parameter.VAR_KEYWORD:
            found[name] = parameter, build
            continue
        named = getattr(parameter.annotation, "__metadata__", ())
        target = (*named, signature.return_annotation)[0]
        for field, (argument, owner) in _with_owners(target).items():
            optional = argument.default is not argument.empty or field == "num_classes"
            if optional and field not in {*_UNLISTED, *found}:
                found[field] = argument.replace(kind=argument.KEYWORD_ONLY), owner
    return found


def _meanings(owner: Any) -> dict[str, str]:
    """Return the texts in the sections "Args" and "Attributes" of a docstring, by name.

    A class has the ones of its bases, too.
    """
    bases = [each for each in getattr(owner, "__mro__", [owner]) if each.__module__ != "builtins"]
    found: dict[str, str] = {}
    for each in bases:
        text = inspect.cleandoc(each.__doc__ or "")
        sections = re.findall(r"^(?:Args|Attributes):\n((?:(?: .*)?\n?)*)", text, re.MULTILINE)
        entries = re.findall(r"^  (\w+): (.*(?:\n    .*)*)", "\n".join(sections), re.MULTILINE)
        found = {name: " ".join(meaning.split()) for name, meaning in entries} | found
    return found


# Words of timm's `create_model`: names of the same argument here, and what to do without one. A
# message has the first of the names that the family has.
_TIMM: Mapping[str, tuple[tuple[str, ...], str]] = {
    "pretrained": ((), "weights are read by aggnets convert, or aggnets_jax.convert.from_torch"),
    "checkpoint_path": (
        (),
        "weights are read by aggnets convert, or aggnets_jax.convert.from_torch",
    ),
    "in_chans": (
        (),
        "the images at model.init have the channels: (batch, height, width, channels)",
    ),
    "img_size": ((), "the images at model.init have the size: (batch, height, width, channels)"),
    **dict.fromkeys(
        ("features_only", "out_indices", "output_stride"),
        ((), "only aggnets_jax.create_model makes networks without their classifier"),
    ),
    "drop_rate": (("dropout",), "the family drops no features"),
    "drop_path_rate": (
        ("stochastic_depth", "drop_connect", "drop_path"),
        "the family drops no branches",
    ),
    "drop_block_rate": (("dropblock",), "the family drops no squares"),
    "global_pool": (("pool",), "the head averages over positions"),
    "norm_layer": ((), "networks have batch normalisation"),
}


def check_timm(name: str, given: Mapping[str, Any], allowed: Collection[str]) -> None:
    """Raise `UserError` for timm's name of an argument; the message has the name used here."""
    for word in given:
        if word in _TIMM and word not in allowed:
            names, otherwise = _TIMM[word]
            here = next((f"here it is {n!r}" for n in names if n in allowed), otherwise)
            raise UserError(f"{name} has no argument {word!r} of timm: {here}")
    if given.get("num_classes") == 0:
        raise UserError(
            "num_classes must be a whole number of at least 1, got 0; for features instead of"
            " logits take endpoints['pre_logits'] of model.apply"
        )
