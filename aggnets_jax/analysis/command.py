"""Parts that the analyses share: flags, the images, and the files that they write."""

import argparse
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from aggnets_jax import data
from aggnets_jax.errors import UserError, one_line
from aggnets_jax.evaluate import evaluation_batches
from aggnets_jax.files import AnyPath, write_figure
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.statistics import accuracy_interval
from aggnets_jax.tables import print_table, write_csv
from aggnets_jax.workdir.restore import Restored


def add_data_dir(parser: argparse.ArgumentParser) -> None:
    """Add the flag for the folder of the data set."""
    parser.add_argument("--data_dir", help="folder of the data set; default the run's")


def add_count(parser: argparse.ArgumentParser, default: int) -> None:
    """Add the flags for the images that `first_images` reads."""
    text = f"number of images, from the first; default {default}"
    parser.add_argument("--count", type=int, default=default, help=text)
    add_data_dir(parser)


def add_stages(parser: argparse.ArgumentParser) -> None:
    """Add the flag for the stages to look at, see `taps.choose`."""
    text = "shell pattern of the names of stages; default '*': all"
    parser.add_argument("--stages", default="*", help=text)


class Pictures(NamedTuple):
    """Images as they are stored.

    Attributes:
      names: numbers in the evaluation split, or files.
      images: uint8 [n, height, width, channels].
      labels: int [n], or None if they are not known.
    """

    names: tuple[str, ...]
    images: np.ndarray
    labels: np.ndarray | None


def first_pictures(batches: data.EvalBatches, count: int) -> Pictures:
    """Return the first images of the evaluation split, at most `count`; damaged ones do not count.

    Raises:
      UserError: if all are damaged.
    """
    examples = list(itertools.islice(_examples(batches), count))
    if not examples:
        raise UserError(f"all {batches.num_examples} images of the evaluation are damaged")
    names, images, labels = zip(*examples, strict=True)
    return Pictures(names, np.stack(images), np.stack(labels))


def _examples(batches: data.EvalBatches) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    for number, batch in enumerate(map(jax.device_get, batches)):
        for row in np.flatnonzero(batch["mask"]):
            name = str(number * batches.batch_size + row)
            yield name, batch["image"][row], batch["label"][row]


def first_images(restored: Restored, given: argparse.Namespace) -> tuple[jax.Array, jax.Array]:
    """Return the first `given.count` images of the evaluation split, and their labels.

    Returns:
      Normalised images, float [n, height, width, channels], and int32 [n].

    Raises:
      UserError: if the count is below 1, or all images are damaged.
    """
    if given.count < 1:
        raise UserError(f"--count must be at least 1, not {given.count}")
    batches = evaluation_batches(restored, mesh_lib.make_mesh(), given.data_dir)
    pictures = first_pictures(batches, given.count)
    preprocess = data.make_preprocess(restored.config.data, restored.info)
    images = preprocess({"image": jnp.asarray(pictures.images)}, train=False)
    return images, jnp.asarray(pictures.labels, jnp.int32)


def accuracy_columns(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a table for the metrics of an evaluation.

    They are `accuracy` in 0..1, the ends `low` and `high` of its 95 % interval (Wilson's), `loss`
    (mean cross entropy) and `examples`.
    """
    accuracy, examples = metrics["accuracy"], metrics["examples"]
    low, high = accuracy_interval(accuracy, examples)
    ends = {"accuracy": accuracy, "low": low, "high": high}
    return {**ends, "loss": metrics["loss"], "examples": examples}


def accuracy_cells(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the cells of a printed row for `accuracy` and its 95 % interval, `low` to `high`."""
    return {
        "accuracy": f"{record['accuracy']:.2%}",
        "95 % interval": f"{record['low']:.2%} to {record['high']:.2%}",
    }


def check_same_images(workdir: str, other: data.DatasetInfo, ours: data.DatasetInfo) -> None:
    """Raise `UserError` if the network of --against=WORKDIR is evaluated on other images."""
    for field in ("name", "eval_split", "num_eval", "class_names"):
        theirs, own = getattr(other, field), getattr(ours, field)
        if theirs != own:
            why = f"its data set's {field} is {one_line(theirs)}, not {one_line(own)}"
            raise UserError(f"--against={workdir} has other images: {why}")


def headline(restored: Restored, given: argparse.Namespace, text: str) -> str:
    """Return the title of a table about one checkpoint."""
    return f"{given.workdir}, step {restored.step}: {text}"


def publish(
    output: AnyPath,
    title: str,
    shown: Sequence[Mapping[str, str]],
    files: Mapping[str, Sequence[Mapping[str, Any]]],
    figure: Figure,
    *,
    tight: bool = False,
) -> None:
    """Print a table, write other tables and a picture into a folder, and print the files' names.

    Args:
      output: the folder.
      title: title of the printed table.
      shown: rows of the printed table.
      files: records of each CSV file, by its name without a suffix.
      figure: the picture, whose name is the first of these.
      tight: whether the margins of the picture are cut.
    """
    print_table(shown, title)
    tables = {output / f"{name}.csv": records for name, records in files.items()}
    for file, records in tables.items():
        write_csv(file, records)
    picture = next(iter(tables)).with_suffix(".png")
    write_figure(picture, figure, bbox_inches="tight" if tight else None)
    print(*tables, picture, sep=", ")


def to_texts(rows: Sequence[Mapping[str, Any]], digits: str) -> list[dict[str, str]]:
    """Return rows for `publish` to print, with floats in a format such as ".3f"."""
    return [
        {name: format(v, digits) if isinstance(v, float) else str(v) for name, v in row.items()}
        for row in rows
    ]
