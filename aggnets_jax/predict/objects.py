"""The objects that a detector finds in image files: tables and pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jax.sharding import Mesh
from PIL import Image, ImageDraw
from rich.table import Column, Table
from rich.text import Text

from aggnets_jax.data.image_files import read_picture, upright_size
from aggnets_jax.data.objects import Annotated, EvaluatedImages
from aggnets_jax.data.objects.segmentations import decode_mask
from aggnets_jax.detection.results import coco_results
from aggnets_jax.errors import UserError, one_line
from aggnets_jax.evaluate import make_eval_step
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.runtime.notes import counted, note
from aggnets_jax.tables import csv_text
from aggnets_jax.tasks import get_task
from aggnets_jax.workdir.restore import Restored

_LEAST_SIDE = 256  # of drawn pictures in pixels
_BOX = ("x", "y", "width", "height")

# Colours that differ for readers with any colour vision (Okabe and Ito), by class.
_COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")


class Detected(NamedTuple):
    """The objects of an image file, the highest score first.

    Attributes:
      image: the file.
      size: (height, width) of the image.
      objects: each in COCO's format of results, with "class", the name of its class, in the place
        of "image_id": "category_id", "bbox" (x, y, width, height in pixels), "score" and, if the
        detector has masks, "segmentation", run-length counts.
    """

    image: str
    size: tuple[int, int]
    objects: tuple[Mapping[str, Any], ...]


def detect(
    restored: Restored, files: Sequence[str], mesh: Mesh, least_score: float
) -> list[Detected]:
    """Detect objects in files with the variables of one seed; see `predict`."""
    config, info = restored.config, restored.info
    task = get_task(config)
    categories = dict(zip(info.category_ids, info.class_names, strict=True))
    each = -(-min(config.eval_batch_size, len(files)) // mesh.size)
    batches = EvaluatedImages(
        _as_split(files, categories),
        task.form,  # type: ignore[attr-defined]
        batch_size=each * mesh.size,
        skip=False,
        sharding=mesh_lib.batch_sharding(mesh),
    )
    preprocess = task.make_preprocess(config, info)
    step = make_eval_step(task, restored.model, preprocess, mesh=mesh)
    found = {}
    note(f"detecting objects in {len(files)} images")
    for batch in counted(batches, len(batches), "batches"):
        found |= task.read(step(restored.variables, batch))  # type: ignore[attr-defined]
    return [
        Detected(file, found[i].size, _objects(found[i], categories, task, least_score))
        for i, file in enumerate(files)
    ]


def _objects(
    found: Any, categories: Mapping[int, str], task: Any, least_score: float
) -> tuple[Mapping[str, Any], ...]:
    """Return the objects with enough score, with the names of their classes."""
    kept = found.scores >= least_score
    masks = None if found.masks is None else found.masks[kept]
    found = found._replace(
        boxes=found.boxes[kept], scores=found.scores[kept], labels=found.labels[kept], masks=masks
    )
    results = coco_results(found, 0, tuple(categories), task.form.conventions)
    return tuple(
        {"class": categories[each["category_id"]]}
        | {name: value for name, value in each.items() if name != "image_id"}
        for each in results
    )


def _as_split(files: Sequence[str], categories: Mapping[int, str]) -> Annotated:
    """Return files as a split without annotations; raise `UserError` for one that is no image."""
    images = []
    for number, file in enumerate(files):
        try:
            with Image.open(file) as image:
                height, width = upright_size(image)
        except Exception as error:  # PIL raises any at a damaged file
            raise UserError(f"{file} is damaged or no image: {one_line(error)}") from error
        name = str(Path(file).resolve())
        images.append({"id": number, "file_name": name, "height": height, "width": width})
    nothing = epath.Path("/")
    return Annotated(nothing, nothing, tuple(images), ((),) * len(files), categories, 0)


def table(predictions: Sequence[Detected]) -> Table:
    """Return the table for the terminal."""
    folded = (Column(name, overflow="fold") for name in ("image", "class"))
    right = (Column(name, justify="right") for name in ("score", *_BOX))
    found = Table(*folded, *right, show_lines=True)
    for image, _, objects in predictions:
        boxes = zip(*(each["bbox"] for each in objects), strict=True) if objects else [()] * 4
        found.add_row(
            Text(image),
            Text("\n".join(each["class"] for each in objects)),
            "\n".join(f"{each['score']:.2%}" for each in objects),
            *("\n".join(f"{value:.1f}" for value in column) for column in boxes),
        )
    return found


def csv(predictions: Sequence[Detected]) -> str:
    """Return a row for each object."""
    rows = [
        {
            "image": image,
            **{name: each[name] for name in ("class", "category_id", "score")},
            **dict(zip(_BOX, each["bbox"], strict=True)),
        }
        for image, _, objects in predictions
        for each in objects
    ]
    return csv_text(rows, ("image", "class", "category_id", "score", *_BOX))


def json_records(predictions: Sequence[Detected]) -> list[dict[str, Any]]:
    """Return an object for each image, with the fields of `Detected`."""
    return [
        {"image": image, "height": size[0], "width": size[1], "objects": list(objects)}
        for image, size, objects in predictions
    ]


def draw(detected: Detected) -> Image.Image:
    """Draw boxes, names, scores and masks over an image."""
    picture = read_picture(Path(detected.image).read_bytes(), size=detected.size)
    return draw_over(Image.fromarray(picture), detected.objects)


def draw_over(picture: Image.Image, objects: Sequence[Mapping[str, Any]]) -> Image.Image:
    """Draw objects, as of `Detected`, over a picture; the highest score is drawn last.

    Small pictures are enlarged, so that names can be read.
    """
    width, height = picture.size
    factor = -(-_LEAST_SIDE // min(width, height)) if min(width, height) < _LEAST_SIDE else 1
    picture = picture.resize((factor * width, factor * height), Image.Resampling.NEAREST)
    line = max(1, min(picture.size) // 200)
    for each in reversed(objects):
        colour = _COLOURS[each["category_id"] % len(_COLOURS)]
        if "segmentation" in each:
            mask = decode_mask(each["segmentation"], height, width)
            cover = Image.fromarray((mask * 110).astype(np.uint8)).resize(picture.size)
            picture.paste(Image.new("RGB", picture.size, colour), mask=cover)
        canvas = ImageDraw.Draw(picture)
        x, y, w, h = (factor * value for value in each["bbox"])
        canvas.rectangle((x, y, max(x + w, x), max(y + h, y)), outline=colour, width=line)
        label = each["class"] if "score" not in each else f"{each['class']} {each['score']:.0%}"
        top = canvas.textbbox((x, y), label)
        place = (x, max(0.0, y - (top[3] - top[1]) - 2))
        canvas.rectangle(canvas.textbbox(place, label), fill=colour)
        canvas.text(place, label, fill="black")
    return picture
