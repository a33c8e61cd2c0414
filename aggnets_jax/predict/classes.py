"""The most probable classes of image files."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh
from rich.table import Column, Table
from rich.text import Text

from aggnets_jax import data
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.runtime.compilation import compiler_options
from aggnets_jax.runtime.distributed import to_host
from aggnets_jax.runtime.notes import counted, note
from aggnets_jax.tables import csv_text
from aggnets_jax.training.state import Variables
from aggnets_jax.workdir.restore import Restored

PredictStep = Callable[[Variables, data.Batch], tuple[jax.Array, jax.Array]]


class Prediction(NamedTuple):
    """An image file's most probable classes, that one first, and their probabilities, in 0..1."""

    image: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


def classify(restored: Restored, files: Sequence[str], mesh: Mesh, top: int) -> list[Prediction]:
    """Classify files with the variables of one seed; see `predict`."""
    config, info = restored.config, restored.info
    # As in the evaluation, but no larger than the files need, and for any number of devices.
    each = -(-min(config.eval_batch_size, len(files)) // mesh.size)
    batches = data.file_batches(
        files, info, batch_size=each * mesh.size, sharding=mesh_lib.batch_sharding(mesh)
    )
    preprocess = data.make_preprocess(config.data, info)
    step = _make_predict_step(restored.model, preprocess, min(top, info.num_classes))
    note(f"classifying {len(files)} images")
    each_batch = counted(batches, len(batches), "batches")
    dispatched = itertools.chain((step(restored.variables, batch) for batch in each_batch), [None])
    # The outputs of a batch are fetched when the next one is dispatched.
    outputs = [jax.tree.map(to_host, behind) for behind, _ in itertools.pairwise(dispatched)]
    classes, probabilities = (np.concatenate(parts) for parts in zip(*outputs, strict=True))
    return [
        Prediction(file, tuple(info.class_names[k] for k in numbers), tuple(map(float, values)))
        for file, numbers, values in zip(files, classes, probabilities, strict=False)  # padding
    ]


def _make_predict_step(model: nn.Module, preprocess: data.Preprocess, top: int) -> PredictStep:
    """Make the compiled function from a batch to classes, int32 [B, top], and probabilities."""

    def predict_step(variables: Variables, batch: data.Batch) -> tuple[jax.Array, jax.Array]:
        logits, _ = model.apply(variables, preprocess(batch, train=False), train=False)
        # By logits, because large ones may have equal probabilities.
        _, classes = jax.lax.top_k(logits, top)
        return classes, jnp.take_along_axis(jax.nn.softmax(logits), classes, axis=-1)

    return jax.jit(predict_step, compiler_options=compiler_options())


def table(predictions: Sequence[Prediction]) -> Table:
    """Return the table for the terminal."""
    folded = (Column(name, overflow="fold") for name in ("image", "class"))
    table = Table(*folded, Column("probability", justify="right"), show_lines=True)
    for image, classes, probabilities in predictions:
        percents = "\n".join(f"{p:.2%}" for p in probabilities)
        table.add_row(Text(image), Text("\n".join(classes)), percents)
    return table


def _classes(prediction: Prediction) -> list[dict[str, Any]]:
    pairs = zip(prediction.classes, prediction.probabilities, strict=True)
    return [{"class": name, "probability": probability} for name, probability in pairs]


def csv(predictions: Sequence[Prediction]) -> str:
    """Return a row for each class of each image."""
    return csv_text(
        {"image": prediction.image, "rank": rank, **found}
        for prediction in predictions
        for rank, found in enumerate(_classes(prediction), start=1)
    )


def json_records(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """Return an object for each image."""
    return [{"image": found.image, "predictions": _classes(found)} for found in predictions]
