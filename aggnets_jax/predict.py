"""`aggnets predict`: the most probable classes of images in files."""

import io
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from aggnets_jax import data
from aggnets_jax.buckets import is_url
from aggnets_jax.data.image_folder import ENDINGS, find_files, report_left_out
from aggnets_jax.errors import UserError, unknown
from aggnets_jax.files import any_path, explained, local_path, write_text
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.runtime.compilation import compiler_options
from aggnets_jax.runtime.distributed import to_host
from aggnets_jax.runtime.notes import counted, note
from aggnets_jax.tables import csv_text
from aggnets_jax.training.state import Variables
from aggnets_jax.workdir.restore import restore_network

PredictStep = Callable[[Variables, data.Batch], tuple[jax.Array, jax.Array]]


class Prediction(NamedTuple):
    """An image file's most probable classes, that one first, and their probabilities, in 0..1."""

    image: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


def predict(
    workdir: str | Path,
    images: Sequence[str | Path],
    *,
    which: str = "latest",
    seed: int | None = None,
    top: int = 5,
) -> list[Prediction]:
    """Classify images; the data set of the run is not needed.

    Images are read, resized and cropped like the evaluation split. If all images of the data set
    have one size, others are resized to it. The images are as for `find_images`, the checkpoint as
    for `restore_network` and the seed as for its `variables_at`. Each file gets a prediction of
    `top` classes; all, if there are fewer.

    Raises:
      UserError: no such checkpoint, no such files, or one that is no image.
    """
    if top < 1:
        raise UserError(f"top must be at least 1, not {top}")
    files = find_images(images)
    mesh = mesh_lib.make_mesh()
    restored = restore_network(workdir, which, mesh_lib.replicated(mesh), keep_loops=True)
    config, info = restored.config, restored.info
    variables = restored.variables_at(seed)
    # As in the evaluation, but no larger than the files need, and for any number of devices.
    each = -(-min(config.eval_batch_size, len(files)) // mesh.size)
    batches = data.file_batches(
        files, info, batch_size=each * mesh.size, sharding=mesh_lib.batch_sharding(mesh)
    )
    preprocess = data.make_preprocess(config.data, info)
    step = _make_predict_step(restored.model, preprocess, min(top, info.num_classes))
    note(f"classifying {len(files)} images")
    each_batch = counted(batches, len(batches), "batches")
    dispatched = itertools.chain((step(variables, batch) for batch in each_batch), [None])
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


def find_images(paths: Sequence[str | Path]) -> list[str]:
    """Return the given files, and the images in given folders and below, sorted; each once.

    Hidden files and folders are left out; other files that are no images are counted on stderr.

    Raises:
      UserError: if there is no such file or folder, or no image in a folder.
    """
    files: list[Path] = []
    for path in map(local_path, paths):
        if path.is_dir():
            images, others = find_files(str(path))
            if not images:
                raise UserError(f"no images ({', '.join(ENDINGS)}) in {path}")
            report_left_out(str(path), others)
            files += sorted(map(Path, images))
        elif path.is_file():
            files.append(path)
        else:
            raise UserError(f"no file or folder {path}")
    return [str(file) for file in dict.fromkeys(files)]


def report_predictions(
    predictions: Sequence[Prediction], form: str = "table", output: str | Path | None = None
) -> None:
    """Print predictions, or write them to a file at once.

    The form is "table"; "csv", a row for each class of each image; or "json", a list with an object
    for each image.

    Raises:
      UserError: no such form, or the file cannot be written.
    """
    check_report(form, output)
    if output is None and form == "table":
        Console().print(_table(predictions))
    elif output is None:
        print(FORMS[form](predictions), end="")
    else:
        with explained(f"{output} can't be written"):
            write_text(any_path(output), FORMS[form](predictions))


def check_report(form: str, output: str | Path | None) -> None:
    """Raise `UserError` if predictions cannot be reported in this form, or to this file."""
    if form not in FORMS:
        raise unknown("format", form, FORMS)
    if output is not None:
        path = any_path(output)
        if not is_url(path) and (path.is_dir() or not path.parent.is_dir()):
            raise UserError(f"{output} must be a file in a folder that there is")


def _table(predictions: Sequence[Prediction]) -> Table:
    folded = (Column(name, overflow="fold") for name in ("image", "class"))
    table = Table(*folded, Column("probability", justify="right"), show_lines=True)
    for image, classes, probabilities in predictions:
        percents = "\n".join(f"{p:.2%}" for p in probabilities)
        table.add_row(Text(image), Text("\n".join(classes)), percents)
    return table


def _table_text(predictions: Sequence[Prediction]) -> str:
    file = io.StringIO()
    Console(file=file).print(_table(predictions))
    return file.getvalue()


def _classes(prediction: Prediction) -> list[dict[str, Any]]:
    pairs = zip(prediction.classes, prediction.probabilities, strict=True)
    return [{"class": name, "probability": probability} for name, probability in pairs]


def _csv(predictions: Sequence[Prediction]) -> str:
    return csv_text(
        {"image": prediction.image, "rank": rank, **found}
        for prediction in predictions
        for rank, found in enumerate(_classes(prediction), start=1)
    )


def _json(predictions: Sequence[Prediction]) -> str:
    value = [{"image": found.image, "predictions": _classes(found)} for found in predictions]
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


FORMS = {"table": _table_text, "csv": _csv, "json": _json}
