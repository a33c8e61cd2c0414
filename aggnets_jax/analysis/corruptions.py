"""Accuracy on images with the fifteen common corruptions: noise, blur, weather and digital ones.

Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019, arXiv 1903.12261, Section 4. E(c, s) is the error on corruption c at
severity s, and E' the error of a reference network:

    CE(c) = sum over s of E(c, s) / sum over s of E'(c, s)
    relative CE(c) = sum over s of (E(c, s) - E(clean)) / sum over s of (E'(c, s) - E'(clean))

mCE and relative mCE are the means over the fifteen corruptions. The paper's reference on ImageNet
is AlexNet.
"""

import argparse
import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from matplotlib.figure import Figure

from aggnets_jax import data
from aggnets_jax.analysis import command
from aggnets_jax.analysis.plots import add_legend
from aggnets_jax.data.corrupted_sets import (
    PREPARED,
    find_folder,
    has_arrays,
    prepared_name,
    read_arrays,
)
from aggnets_jax.data.corruptions import (
    CORRUPTIONS,
    SEVERITIES,
    Frost,
    is_small,
    make_corruption,
    read_frost,
)
from aggnets_jax.data.image_folder import IMAGE_FOLDER
from aggnets_jax.errors import UserError, unknown
from aggnets_jax.evaluate import evaluate, evaluation_batches, make_eval_step, other_evaluation
from aggnets_jax.files import AnyPath, any_path, has_folder
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.runtime.compilation import compiler_options
from aggnets_jax.runtime.notes import note
from aggnets_jax.tasks.classification import Classification
from aggnets_jax.training.state import Variables
from aggnets_jax.workdir.restore import Restored, restore_network

CLEAN = "none"
"""Name of the images without a corruption, with severity 0."""

# Mean error over the severities, from the authors' evaluation of torchvision's AlexNet, and its
# error on clean images, which the paper prints with three digits (Table 1).
ALEXNET = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
    CLEAN: 0.435,
}


class Reading(NamedTuple):
    """Choice of the corrupted images to evaluate.

    Attributes:
      names: corruptions.
      severities: severities of each corruption.
      source: one of `PREPARED`, a folder of `corrupted_sets`, or None to corrupt the run's images.
      data_dir: folder of the data set of the run, or of the set of `PREPARED`.
      frost: photographs of frost, for the run's images.
      seed: seed of the random numbers, for the run's images.
    """

    names: Sequence[str] = CORRUPTIONS
    severities: Sequence[int] = SEVERITIES
    source: str | None = None
    data_dir: str | None = None
    frost: Frost | None = None
    seed: int = 0


Evaluated = tuple[str, int, dict[str, Any]]
"""Corruption, severity and metrics."""


def measure(restored: Restored, mesh: Mesh, reading: Reading) -> list[dict[str, Any]]:
    """Evaluate a network on clean and on corrupted images.

    The clean images are the run's evaluation split. They are left out for a network that is
    evaluated on a corrupted set and has no data set of its own: its weights come from a file.

    Returns:
      A record for each corruption and severity: `corruption`, `severity`, and the columns of
      `command.accuracy_columns`.
    """
    evaluated = _corrupted if reading.source is None else _of_set
    return [
        {"corruption": name, "severity": severity, **command.accuracy_columns(found)}
        for name, severity, found in evaluated(restored, mesh, reading)
    ]


def _corrupted(restored: Restored, mesh: Mesh, reading: Reading) -> Iterator[Evaluated]:
    """Corrupt the images of the run's evaluation split on the devices."""
    task, variables = Classification(), restored.variables
    batches = evaluation_batches(restored, mesh, reading.data_dir)
    step = make_eval_step(task, restored.model, _preprocess(restored))
    yield CLEAN, 0, evaluate(task, step, variables, batches)
    for name, severity in itertools.product(reading.names, reading.severities):
        note(f"evaluating {name}, severity {severity}")
        change = make_changer(name, severity, restored.info.image_shape, reading)
        first = itertools.count(step=batches.batch_size)

        def changed(
            variables: Variables, batch: data.Batch, change: Any = change, first: Any = first
        ) -> Any:
            images = change(batch["image"], np.int32(next(first)))
            return step(variables, {**batch, "image": images})

        yield name, severity, evaluate(task, changed, variables, batches)


def make_changer(name: str, severity: int, shape: tuple[int, int, int], reading: Reading) -> Any:
    """Make the compiled function `(images, first) -> corrupted images`, all uint8 [B, H, W, C].

    `first` is the number of the batch's first image: the random numbers of an image depend on
    (seed, corruption, severity, number), not on its batch.
    """
    corrupt = make_corruption(name, severity, shape, reading.frost)
    stream = len(SEVERITIES) * CORRUPTIONS.index(name) + severity

    @partial(jax.jit, compiler_options=compiler_options())
    def change(images: jax.Array, first: jax.Array) -> jax.Array:
        # The generator is named, so that jax_default_prng_impl can't change the numbers.
        key = jax.random.fold_in(jax.random.key(reading.seed, impl="threefry2x32"), stream)
        numbers = first + jnp.arange(len(images))
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, numbers)
        return jax.vmap(corrupt)(keys, images)

    return change


def _preprocess(restored: Restored) -> data.Preprocess:
    return data.make_preprocess(restored.config.data, restored.info)


def _of_set(restored: Restored, mesh: Mesh, reading: Reading) -> Iterator[Evaluated]:
    """Read a corrupted data set."""
    task, variables = Classification(), restored.variables
    if restored.info.num_train:
        own = None if reading.source in PREPARED else reading.data_dir
        clean = evaluation_batches(restored, mesh, own)
        step = make_eval_step(task, restored.model, _preprocess(restored))
        yield CLEAN, 0, evaluate(task, step, variables, clean)
    steps: dict[bytes, Any] = {}  # by the classes; one program for all corruptions
    for name, severity in itertools.product(reading.names, reading.severities):
        note(f"evaluating {name}, severity {severity}")
        model, batches = _open(restored, mesh, reading, name, severity)
        among = model.class_map.classes.tobytes() if isinstance(model, data.Among) else b""
        if among not in steps:
            steps[among] = make_eval_step(task, model, _preprocess(restored))
        yield name, severity, evaluate(task, steps[among], variables, batches)


def _open(
    restored: Restored, mesh: Mesh, reading: Reading, name: str, severity: int
) -> tuple[Any, data.EvalBatches]:
    """Return the network, among the classes of a corrupted set, and the batches of the set."""
    if reading.source in PREPARED:
        prepared = prepared_name(reading.source, name, severity)
        return other_evaluation(restored, mesh, prepared, reading.data_dir)
    folder = any_path(reading.source)
    if not has_arrays(folder):
        place = str(find_folder(folder, name))
        split = str(severity)
        return other_evaluation(restored, mesh, IMAGE_FOLDER, place, split, whole=True)
    images, labels = read_arrays(folder, name, severity)
    shape, classes = restored.info.image_shape, restored.info.num_classes
    if images.shape[1:] != shape or not 0 <= labels.min() <= labels.max() < classes:
        raise UserError(
            f"{folder} has images of {list(images.shape[1:])} with labels {labels.min()} to"
            f" {labels.max()}; the network takes {list(shape)} and has {classes} classes"
        )
    size = restored.config.eval_batch_size
    sharding = mesh_lib.batch_sharding(mesh)
    batches = data.array_batches(images, labels, restored.info, batch_size=size, sharding=sharding)
    return restored.model, batches


def errors(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean error of each corruption over its severities, and of clean images."""
    names = dict.fromkeys(record["corruption"] for record in records)
    return {
        name: float(np.mean([1 - r["accuracy"] for r in records if r["corruption"] == name]))
        for name in names
    }


def corruption_errors(
    own: Mapping[str, float], reference: Mapping[str, float] | None
) -> list[dict[str, Any]]:
    """Return errors by corruption, alone and relative to a reference's, and their means.

    Args:
      own: errors of the network, from `errors`.
      reference: errors of a reference network, over the same severities.

    Returns:
      A record for each corruption, and "mean": `error`, `ce` and `relative_ce`, in 0..1; None where
      there is no reference, no clean error, or the reference has no error to divide by.
    """
    clean = own.get(CLEAN)

    def ratio(name: str, *, relative: bool) -> float | None:
        if reference is None or name not in reference:
            return None
        if not relative:
            return own[name] / reference[name] if reference[name] else None
        if clean is None or CLEAN not in reference:
            return None
        rise = reference[name] - reference[CLEAN]
        return (own[name] - clean) / rise if rise > 0 else None

    rows = [
        {
            "corruption": name,
            "error": own[name],
            "ce": ratio(name, relative=False),
            "relative_ce": ratio(name, relative=True),
        }
        for name in own
        if name != CLEAN
    ]
    mean: dict[str, Any] = {"corruption": "mean"}
    for column in ("error", "ce", "relative_ce"):
        values = [row[column] for row in rows]
        mean[column] = None if None in values else float(np.mean(values))
    return [*rows, mean]


def draw(found: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw the error of each corruption as a bar for each network, and of clean images as a line.

    `found` has the result of `errors` for each network.
    """
    names = [name for name in next(iter(found.values())) if name != CLEAN]
    figure = Figure(figsize=(max(5, 0.7 * len(names)), 4), dpi=120, layout="constrained")
    axes, width = figure.subplots(), 0.8 / len(found)
    for number, (network, own) in enumerate(found.items()):
        places = np.arange(len(names)) + (number + 0.5) * width - 0.4
        style = {"color": f"C{number}"}
        heights = [100 * own[name] for name in names]
        # A longer name of a folder would leave no place for the bars.
        shown = network if len(network) <= 40 else f"...{network[-37:]}"
        label = f"{shown}, mean {np.mean(heights):.1f} %"
        axes.bar(places, heights, width, label=label, **style)
        if CLEAN in own:
            axes.axhline(100 * own[CLEAN], linestyle="--", linewidth=1, **style)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
    axes.set(ylabel="error, %; dashed: clean images")
    add_legend(axes)
    return figure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this analysis."""
    add = parser.add_argument
    text = f"{', '.join(PREPARED)}, or the folder of CIFAR-10-C, CIFAR-100-C or ImageNet-C"
    add("--data", help=f"{text}; default: corrupt the run's images", metavar="NAME")
    command.add_data_dir(parser)
    add("--corruptions", nargs="+", default=CORRUPTIONS, metavar="NAME", help="default all fifteen")
    add("--severities", nargs="+", type=int, default=SEVERITIES, metavar="N", help="default 1 to 5")
    add("--frost", metavar="DIR", help="folder of photographs of frost; default: drawn")
    add("--draw_seed", type=int, help="seed of the random numbers; default 0")
    add("--against", metavar="WORKDIR", help="reference network of the corruption errors")


def run(restored: Restored, given: argparse.Namespace, output: AnyPath) -> None:
    """Print, write and draw errors by corruption."""
    reading = _reading(given, restored.info)
    mesh = mesh_lib.make_mesh()
    networks = {given.workdir: restored}
    if given.against is not None:
        if any_path(given.against).resolve() == any_path(given.workdir).resolve():
            raise UserError(f"--against={given.against} is the workdir itself")
        other = restore_network(given.against, given.checkpoint, mesh_lib.replicated(mesh))
        other = networks[given.against] = other._replace(variables=other.variables_at(given.seed))
        if reading.source is None:
            each = (evaluation_batches(of, mesh, given.data_dir).info for of in (other, restored))
            command.check_same_images(given.against, *each)
    records, found = [], {}
    for workdir, network in networks.items():
        rows = measure(network, mesh, reading)
        found[workdir] = errors(rows)
        records += [{"network": workdir, "step": network.step, **row} for row in rows]
    reference = None
    if given.against is not None:
        reference = found[given.against]
    elif _is_imagenet_c(restored.info, reading):
        reference = ALEXNET
    summary = corruption_errors(found[given.workdir], reference)
    against = given.against or ("AlexNet" if reference else None)
    what = "errors by corruption" + (f", CE against {against}" if against else "")
    tables = {"corruptions": records, "corruption_errors": summary}
    title = command.headline(restored, given, what)
    command.publish(output, title, list(map(_cells, summary)), tables, draw(found))


def _reading(given: argparse.Namespace, info: data.DatasetInfo) -> Reading:
    for name in given.corruptions:
        if name not in CORRUPTIONS:
            raise unknown("corruption", name, CORRUPTIONS)
    for severity in given.severities:
        if severity not in SEVERITIES:
            raise unknown("severity", str(severity), map(str, SEVERITIES))
    if given.data is not None:
        for flag in ("frost", "draw_seed"):
            if getattr(given, flag) is not None:
                raise UserError(f"--{flag} is for the run's own images, not for --data")
        if given.data not in PREPARED and not has_folder(any_path(given.data)):
            raise unknown("corrupted set, or folder,", given.data, PREPARED)
    seed = given.draw_seed or 0
    if not 0 <= seed < 2**32:
        raise UserError(f"--draw_seed must be between 0 and 2**32 - 1, not {seed}")
    frost = given.frost and read_frost(given.frost, is_small(info.image_shape))
    names, severities = (tuple(dict.fromkeys(g)) for g in (given.corruptions, given.severities))
    return Reading(names, severities, given.data, given.data_dir, frost, seed)


def _is_imagenet_c(info: data.DatasetInfo, reading: Reading) -> bool:
    """Return whether AlexNet's errors are for these images: the authors', at all severities."""
    imagenet = info.num_classes == 1000 and info.class_names[0] == "n01440764"
    whole = tuple(sorted(reading.severities)) == SEVERITIES
    return imagenet and whole and reading.source is not None


def _cells(record: Mapping[str, Any]) -> dict[str, str]:
    """Return a row of the printed table."""
    cells = {"corruption": record["corruption"], "error": f"{record['error']:.2%}"}
    for column, title in (("ce", "CE"), ("relative_ce", "relative CE")):
        cells[title] = "" if record[column] is None else f"{record[column]:.2%}"
    return cells
