"""Forms: ways to compute the same network, as the command line names them."""

import contextlib
import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from aggnets_jax.config import parse_value
from aggnets_jax.errors import UserError, unknown
from aggnets_jax.layers import convolution

# Arguments of the network that each named part of a form sets.
_PARTS: dict[str, dict[str, Any]] = {
    "default": {},
    "native": {},
    "plain": {"shared_statistics": False, "remat": "none", "scan": False},
    "scan": {"scan": True},
}
# Parts that use XLA's own convolutions on every backend.
_NATIVE = ("native", "plain")


@dataclasses.dataclass(frozen=True)
class Form:
    """A way to compute the same network.

    Attributes:
      name: name on the command line.
      arguments: arguments of the network.
      native: whether to use XLA's own convolutions on every backend.
    """

    name: str = "default"
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    native: bool = False

    def tracing(self) -> contextlib.AbstractContextManager[None]:
        """Return the context in which to trace functions of the network."""
        return convolution.native() if self.native else contextlib.nullcontext()


def parse_forms(text: str) -> list[Form]:
    """Parse names of forms, separated by commas; see `parse_form`.

    Raises:
      UserError: for an unknown form, or one that is given twice.
    """
    names = re.split(r",(?![^(]*\))", text)  # no comma inside a value such as (3,4)
    if len(set(names)) < len(names):
        raise UserError(f"a form comes twice in {text}")
    return list(map(parse_form, names))


def parse_form(name: str) -> Form:
    """Parse the name of a form: parts joined by "+".

    A part is `default`, `plain` (XLA's convolutions, no shared batch statistics, no
    rematerialisation, no loops), `native` (only XLA's convolutions), `scan`, or an argument of the
    network such as `remat=layer`.

    Raises:
      UserError: for an unknown part.
    """
    arguments: dict[str, Any] = {}
    for part in name.split("+"):
        if "=" in part:
            arguments |= parse_arguments(part)
        elif part in _PARTS:
            arguments |= _PARTS[part]
        else:
            raise unknown("form", part, [*_PARTS, "remat=layer", "remat=norm"])
    return Form(name, arguments, not set(_NATIVE).isdisjoint(name.split("+")))


def parse_arguments(text: str) -> dict[str, Any]:
    """Parse `NAME=VALUE,NAME=VALUE`; a value that is no Python literal is text.

    Raises:
      UserError: for text in another format.
    """
    arguments = {}
    # A comma also occurs in values such as (3,4).
    for pair in re.split(r",(?=\w+=)", text):
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f"{text!r} must have the form NAME=VALUE,NAME=VALUE")
        arguments[name] = parse_value(value)
    return arguments
