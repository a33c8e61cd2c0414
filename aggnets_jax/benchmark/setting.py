"""What is measured: a network, its form, and the images that it gets."""

import ast
import contextlib
import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from aggnets_jax import create_model
from aggnets_jax.errors import UserError, unknown
from aggnets_jax.layers import convolution

# What a part of a form's name says of the arguments of the network.
_PARTS: dict[str, dict[str, Any]] = {
    "default": {},
    "native": {},
    "plain": {"shared_statistics": False, "remat": "none", "scan": False},
    "scan": {"scan": True},
}
# In which XLA's own convolutions are used on every backend.
_NATIVE = ("native", "plain")


@dataclasses.dataclass(frozen=True)
class Form:
    """A way to compute the same network.

    Attributes:
      name: as on the command line.
      arguments: of the network.
      native: whether its convolutions are XLA's own on every backend.
    """

    name: str = "default"
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    native: bool = False

    def tracing(self) -> contextlib.AbstractContextManager[None]:
        """The context in which functions of the network are to be traced."""
        return convolution.native() if self.native else contextlib.nullcontext()


def parse_form(name: str) -> Form:
    """The form of a name: parts joined by "+".

    A part is `default`, `plain` (XLA's convolutions, each consumer its own batch statistics,
    nothing recomputed, no loops), `native` (XLA's convolutions alone), `scan`, or an argument of
    the network, `remat=layer`.

    Raises:
      UserError: for an unknown part.
    """
    parts = name.split("+")
    arguments: dict[str, Any] = {}
    for part in parts:
        if "=" in part:
            arguments |= parse_arguments(part)
        elif part in _PARTS:
            arguments |= _PARTS[part]
        else:
            raise unknown("form", part, [*_PARTS, "remat=layer", "remat=norm"])
    return Form(name, arguments, any(part in _NATIVE for part in parts))


def parse_arguments(text: str) -> dict[str, Any]:
    """The arguments of `NAME=VALUE,NAME=VALUE`; values are Python's literals, or text.

    Raises:
      UserError: for text of another form.
    """
    arguments = {}
    # A comma is also part of values such as (3,4).
    for pair in re.split(r",(?=\w+=)", text):
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f"{text!r} must have the form NAME=VALUE,NAME=VALUE")
        try:
            arguments[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            arguments[name] = {"true": True, "false": False}.get(value.lower(), value)
    return arguments


@dataclasses.dataclass(frozen=True)
class Setting:
    """A network in a form, and its batches.

    Attributes:
      model: name in the registry.
      batch_size: images of a step, over all devices.
      image_shape: (height, width, channels).
      arguments: of the network, besides those of the form.
      form: of the network.
      num_classes: default that of the family.
      dtype: of the computation, "float32" or "bfloat16"; parameters are float32.
      steps_per_dispatch: steps in one call of a program; what takes several has a loop.
    """

    model: str
    batch_size: int
    image_shape: tuple[int, int, int]
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    form: Form = Form()
    num_classes: int | None = None
    dtype: str = "float32"
    steps_per_dispatch: int = 1

    def create(self) -> nn.Module:
        """The network.

        Raises:
          UserError: as `create_model`.
        """
        arguments = {**self.arguments, **self.form.arguments}
        return create_model(self.model, self.num_classes, dtype=jnp.dtype(self.dtype), **arguments)

    def with_batch(self, batch_size: int) -> "Setting":
        """The same with batches of another size."""
        return dataclasses.replace(self, batch_size=batch_size)


def parse_forms(text: str) -> list[Form]:
    """The forms of names with commas between them.

    Raises:
      UserError: for an unknown one, or one that comes twice.
    """
    names = re.split(r",(?![^(]*\))", text)  # not at those of values such as (3,4)
    if len(set(names)) < len(names):
        raise UserError(f"a form comes twice in {text}")
    return [parse_form(name) for name in names]
