"""The program to export: a trained classifier, from stored images to logits, and facts about it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import export

from aggnets_jax import data
from aggnets_jax.data.decoding import EVAL_RESIZE
from aggnets_jax.errors import UserError
from aggnets_jax.export.plain import Function, plain
from aggnets_jax.models import create_configured_model
from aggnets_jax.workdir.provenance import versions
from aggnets_jax.workdir.restore import Restored

IMAGES, LOGITS = "images", "logits"
"""Names of the program's input and output."""


class Program(NamedTuple):
    """A classifier to export.

    Attributes:
      function: function from stored images, uint8 [batch, height, width, channels], to logits,
        float32 [batch, classes]. It normalises the images, and consists of XLA's own operations.
      network: the same function as this package computes it, for comparisons.
      images: shape of the images, with a symbolic batch, and their dtype.
      facts: JSON data about the program; see `_facts`.
    """

    function: Function
    network: Function
    images: jax.ShapeDtypeStruct
    facts: dict[str, Any]


def make_program(restored: Restored, *, seed: int | None = None, fold: bool = False) -> Program:
    """Return the program of a restored network, computed in float32.

    Args:
      restored: network of a checkpoint.
      seed: seed of the network, for a run with several.
      fold: whether batch normalisations that follow a convolution or a linear layer become a part
        of it.

    Raises:
      UserError: for a run of another task than classification.
    """
    config, info = restored.config.copy_and_resolve_references(), restored.info
    if config.task != "classification":
        raise UserError(f"export is for classification, and this is a run of {config.task}")
    config.dtype = "float32"
    model = create_configured_model(config, info.num_classes)
    variables = jax.device_get(restored.variables_at(seed))
    preprocess = data.make_preprocess(config.data, info)

    def classify(images: jax.Array) -> jax.Array:
        images = preprocess({"image": images}, train=False)
        return model.apply(variables, images, train=False)[0]

    (batch,) = export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *info.image_shape), jnp.uint8)
    return Program(plain(classify, fold=fold), classify, images, _facts(restored, fold))


def _facts(restored: Restored, fold: bool) -> dict[str, Any]:
    """Return the facts that users of a program need.

    The fields are `network`, `step`, `folded_batch_norm`, `input` and `output` with name, dtype and
    shape, `class_names`, `preprocessing`, and `versions`. The program itself normalises by `mean`
    and `std`, on the scale 0..1. Users resize images before: the short side to `resize_short_side`,
    of which they crop the centre; or, if it is null, the whole image to `size`.
    """
    info = restored.info
    height, _, _ = info.image_shape
    return {
        "network": restored.config.model.name,
        "step": restored.step,
        "folded_batch_norm": fold,
        "input": {"name": IMAGES, "dtype": "uint8", "shape": ["batch", *info.image_shape]},
        "output": {"name": LOGITS, "dtype": "float32", "shape": ["batch", info.num_classes]},
        "class_names": list(info.class_names),
        "preprocessing": {
            "colours": "grey" if info.image_shape[-1] == 1 else "RGB",
            "resize_short_side": round(height * EVAL_RESIZE) if info.resized else None,
            "size": list(info.image_shape[:2]),
            "normalised_inside": {"mean": list(info.mean), "std": list(info.std)},
        },
        "versions": versions(),
    }
