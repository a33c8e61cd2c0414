"""`aggnets predict`: the classes of images in files, or the objects in them."""

import io
import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from aggnets_jax.arguments import check_whole_number
from aggnets_jax.buckets import is_url
from aggnets_jax.data.image_folder import ENDINGS, find_files, report_left_out
from aggnets_jax.errors import UserError, unknown
from aggnets_jax.files import (
    AnyPath,
    PathLike,
    any_path,
    explained,
    local_path,
    make_folder,
    write_bytes,
    write_text,
)
from aggnets_jax.predict import classes, objects
from aggnets_jax.predict.classes import Prediction
from aggnets_jax.predict.objects import Detected
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.workdir.restore import restore_network

__all__ = [
    "Detected",
    "Prediction",
    "check_report",
    "draw_objects",
    "find_images",
    "predict",
    "report_predictions",
]

FORMS = ("table", "csv", "json")


def predict(
    workdir: str | Path,
    images: PathLike | Sequence[PathLike],
    *,
    which: str | int = "latest",
    seed: int | None = None,
    top: int | None = None,
    least_score: float | None = None,
) -> list[Prediction] | list[Detected]:
    """Classify images, or detect objects in them; the data set of the run is not needed.

    Images are read as the evaluation split. For classification, they are resized and cropped like
    it; if all images of the data set have one size, others are resized to it.

    Args:
      workdir: of the run.
      images: a file or folder, or several, see `find_images`.
      which: checkpoint, as for `restore_network`.
      seed: of a run with several.
      top: classes for each image, all if there are fewer; for classification alone; default 5.
      least_score: detected objects have a score of at least this; for detection alone; default 0.3.

    Raises:
      UserError: no such checkpoint, no such files, one that is no image, or an argument for the
        other task.
    """
    if top is not None:
        check_whole_number("top", top, 1)
    if least_score is not None and not 0 <= least_score <= 1:
        raise UserError(f"score must be in 0..1, not {least_score}")
    files = find_images(images)
    mesh = mesh_lib.make_mesh()
    restored = restore_network(workdir, which, mesh_lib.replicated(mesh), keep_loops=True)
    restored = restored._replace(variables=restored.variables_at(seed))
    if restored.config.task == "detection":
        if top is not None:
            raise UserError(f"top is for classification, and {workdir} is a run of detection")
        least_score = 0.3 if least_score is None else least_score
        return objects.detect(restored, files, mesh, least_score)
    if restored.config.task == "multilabel":
        raise UserError(
            f"{workdir} is a run of several labels for each image; predict is for classification"
            " and detection"
        )
    if least_score is not None:
        raise UserError(f"score is for detection, and {workdir} is a run of classification")
    return classes.classify(restored, files, mesh, 5 if top is None else top)


def find_images(paths: PathLike | Sequence[PathLike]) -> list[str]:
    """Return the given files, and the images in given folders and below, sorted; each once.

    A single path is one of them.

    Hidden files and folders are left out; other files that are no images are counted on stderr.

    Raises:
      UserError: if there is no such file or folder, or no image in a folder, or no path at all.
    """
    files: list[Path] = []
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not given:
        raise UserError("predict needs one image at least")
    for path in map(local_path, given):
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
    predictions: Sequence[Prediction] | Sequence[Detected],
    form: str = "table",
    output: str | Path | None = None,
) -> None:
    """Print predictions, or write them to a file at once.

    The form is "table"; "csv", a row for each class of each image, or for each object; or "json", a
    list with an object for each image.

    Raises:
      UserError: no such form, or the file cannot be written.
    """
    check_report(form, output)
    kind = objects if isinstance(predictions[0], Detected) else classes
    if output is None and form == "table":
        Console().print(kind.table(predictions))
        return
    if form == "table":
        file = io.StringIO()
        Console(file=file).print(kind.table(predictions))
        text = file.getvalue()
    elif form == "csv":
        text = kind.csv(predictions)
    else:
        text = json.dumps(kind.json_records(predictions), indent=2, ensure_ascii=False) + "\n"
    if output is None:
        print(text, end="")
    else:
        with explained(f"{output} can't be written"):
            write_text(any_path(output), text)


def draw_objects(
    predictions: Sequence[Prediction] | Sequence[Detected], folder: PathLike
) -> list[AnyPath]:
    """Draw the objects of each image into a PNG file of a folder, which is made.

    Raises:
      UserError: for predictions of classes, a folder that can't be written, or one in which a
        drawing would replace an image.
    """
    if not isinstance(predictions[0], Detected):
        raise UserError("draw is for detection, and this is a run of classification")
    folder = make_folder(folder)
    names: dict[str, Detected] = {}
    for detected in predictions:
        stem = Path(detected.image).stem
        numbered = (f"{stem}_{number}" for number in itertools.count(1))
        name = next(name for name in itertools.chain([stem], numbered) if name not in names)
        names[name] = detected
    files = [folder / f"{name}.png" for name in names]
    images = {Path(detected.image).resolve() for detected in predictions}
    for file in files:
        if not is_url(file) and file.resolve() in images:
            raise UserError(f"drawings would replace the image {file}: give another folder")
    for file, detected in zip(files, names.values(), strict=True):
        with explained(f"{file} can't be written"), io.BytesIO() as picture:
            objects.draw(detected).save(picture, format="PNG")
            write_bytes(file, picture.getvalue())
    return files


def check_report(form: str, output: str | Path | None) -> None:
    """Raise `UserError` if predictions cannot be reported in this form, or to this file."""
    if form not in FORMS:
        raise unknown("format", form, FORMS)
    if output is not None:
        path = any_path(output)
        if not is_url(path) and (path.is_dir() or not path.parent.is_dir()):
            raise UserError(f"{output} must be a file in an existing folder")
