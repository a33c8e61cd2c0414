"""Transfer: how well the features of a network tell the classes of a data set.

The network is frozen and computes the features of each image once, without augmentation. These
classifiers are trained on the features of the training split, and scored on the evaluation split:

    linear    logistic regression by L-BFGS on standardised features (Kornblith et al., "Do Better
              ImageNet Models Transfer Better?", CVPR 2019, arXiv 1805.08974); its L2 penalty is the
              best of five on a held-out fifth of the training images
    sgd       the same with the same penalty, by stochastic gradient descent
    knn       the majority of the nearest training images by cosine similarity
    few-shot  `linear` from k images of each class with penalty 1, over several draws
"""

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from aggnets_jax import data
from aggnets_jax.analysis import command
from aggnets_jax.analysis.outputs import FEATURES, Outputs, split_features
from aggnets_jax.errors import UserError
from aggnets_jax.files import AnyPath
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.statistics import accuracy_interval, mean_and_interval
from aggnets_jax.workdir.restore import Restored

PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Inverse strengths of the L2 penalty, scikit-learn's C."""


def fit_linear(train: Outputs, inverse_penalty: float, *, solver: str = "lbfgs") -> Any:
    """Fit a linear classifier on standardised features, and return scikit-learn's pipeline.

    Args:
      train: features [n, K] and labels.
      inverse_penalty: C of the objective C x (sum of cross entropies) + ||w||^2 / 2.
      solver: "lbfgs" or "sgd".
    """
    from sklearn.linear_model import LogisticRegression, SGDClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if solver == "sgd":
        alpha = 1 / (inverse_penalty * len(train.labels))
        classifier = SGDClassifier(loss="log_loss", alpha=alpha, random_state=0)
    else:
        classifier = LogisticRegression(C=inverse_penalty, max_iter=1000)
    return make_pipeline(StandardScaler(), classifier).fit(*train)


def choose_penalty(train: Outputs) -> float:
    """Return the one of `PENALTIES` with the highest accuracy on a held-out, stratified fifth.

    It is 1 if such a fifth is too small: for a class with a single image, or fewer than five images
    for each class on average.
    """
    from sklearn.model_selection import train_test_split

    counts = np.unique(train.labels, return_counts=True)[1]
    if counts.min() < 2 or len(train.labels) < 5 * len(counts):
        return 1.0
    parts = train_test_split(*train, test_size=0.2, random_state=0, stratify=train.labels)
    fitted, held_out = Outputs(parts[0], parts[2]), Outputs(parts[1], parts[3])
    accuracies = [fit_linear(fitted, c).score(*held_out) for c in PENALTIES]
    return PENALTIES[int(np.argmax(accuracies))]


def few_shots(train: Outputs, evaluation: Outputs, shots: int, draws: int) -> list[float]:
    """Return accuracies of `fit_linear`, in 0..1, from `shots` images of each class, by draw.

    Raises:
      UserError: if a class has fewer images.
    """
    classes, counts = np.unique(train.labels, return_counts=True)
    if counts.min() < shots:
        raise UserError(f"--shots={shots}: the smallest class has {counts.min()} training images")
    found = []
    for draw in range(draws):
        random = np.random.default_rng(draw)
        places = [np.flatnonzero(train.labels == label) for label in classes]
        chosen = np.concatenate([random.choice(p, shots, replace=False) for p in places])
        fitted = fit_linear(Outputs(train.values[chosen], train.labels[chosen]), 1.0)
        found.append(float(fitted.score(*evaluation)))
    return found


def measure(
    train: Outputs, evaluation: Outputs, *, neighbours: int, shots: Sequence[int], draws: int
) -> list[dict[str, Any]]:
    """Train and score all classifiers.

    Args:
      train: features and labels of the training split.
      evaluation: features and labels of the evaluation split.
      neighbours: number of neighbours of knn, at most all images.
      shots: numbers of images of each class for few-shot.
      draws: draws of few-shot for each number.

    Returns:
      A record for each: `method`, `images` of training, `accuracy` in 0..1, the ends `low` and
      `high` of its 95 % interval (Wilson's over images; Student's over draws for few-shot), and
      `setting`.

    Raises:
      UserError: if the training images are all of one class, or too few of a class.
    """
    from sklearn.neighbors import KNeighborsClassifier

    if len(np.unique(train.labels)) < 2:
        raise UserError("a transfer needs training images of at least two classes")
    penalty = choose_penalty(train)
    nearest = KNeighborsClassifier(min(neighbours, len(train.labels)), metric="cosine")
    fitted = {
        "linear": (fit_linear(train, penalty), f"C={penalty:g}"),
        "sgd": (fit_linear(train, penalty, solver="sgd"), f"C={penalty:g}"),
        "knn": (nearest.fit(*train), f"neighbours={nearest.n_neighbors}"),
    }
    records = []
    for method, (classifier, setting) in fitted.items():
        accuracy = float(classifier.score(*evaluation))
        ends = accuracy_interval(accuracy, len(evaluation.labels))
        records.append(_record(method, len(train.labels), accuracy, ends, setting))
    for count in shots:
        accuracies = few_shots(train, evaluation, count, draws)
        mean, _, half = mean_and_interval(accuracies)
        ends = (mean - half, mean + half)
        images = count * len(np.unique(train.labels))
        setting = f"{count} of each class, {draws} draws"
        records.append(_record("few-shot", images, mean, ends, setting))
    return records


def _record(
    method: str, images: int, accuracy: float, ends: tuple[float, float], setting: str
) -> dict[str, Any]:
    low, high = ends
    known = {"method": method, "images": images, "accuracy": accuracy}
    return {**known, "low": low, "high": high, "setting": setting}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this analysis."""
    add = parser.add_argument
    add("--data", metavar="NAME", help="data set to transfer to; default the run's")
    command.add_data_dir(parser)
    add("--endpoint", default=FEATURES, help=f"endpoint with the features; default {FEATURES}")
    add("--neighbours", type=int, default=20, help="number of neighbours of knn; default 20")
    text = "images of each class for few-shot; may be repeated; default 1, 5 and 10"
    add("--shots", type=int, action="append", help=text)
    add("--draws", type=int, default=10, help="number of draws of few-shot; default 10")


def run(restored: Restored, given: argparse.Namespace, output: AnyPath) -> None:
    """Print, write and draw the accuracies of all classifiers."""
    shots = tuple(dict.fromkeys(given.shots or (1, 5, 10)))
    for name, values in (("neighbours", [given.neighbours]), ("shots", shots)):
        if min(values) < 1:
            raise UserError(f"--{name} must be at least 1, not {min(values)}")
    if given.draws < 2:
        raise UserError(f"--draws must be at least 2, for an interval, not {given.draws}")
    train, evaluation = _features(restored, given)
    options = {"neighbours": given.neighbours, "shots": shots, "draws": given.draws}
    records = measure(train, evaluation, **options)
    name = given.data or restored.info.name
    records = [{"data": name, "endpoint": given.endpoint, **record} for record in records]
    title = command.headline(restored, given, f"transfer of {given.endpoint} to {name}")
    tables = {"transfer": records}
    command.publish(output, title, list(map(_cells, records)), tables, draw(records))


def _features(restored: Restored, given: argparse.Namespace) -> tuple[Outputs, Outputs]:
    config, info = restored.config, restored.info
    if given.data is not None:
        # The images of another set are read as those of the network's own.
        another = {"name": given.data, "data_dir": None, "train_split": "train", "eval_split": None}
        config.data.update({**another, "resident": "never"})
        sides = info.image_shape[:2]
        config.data.image_size = sides[0] if sides[0] == sides[1] else None
    if given.data_dir is not None:
        config.data.data_dir = given.data_dir
    there = data.describe(config.data)
    if there.image_shape[:2] != info.image_shape[:2]:
        size, own = ("x".join(map(str, each.image_shape[:2])) for each in (there, info))
        raise UserError(
            f"images of {there.name} are {size}, and the network's are {own}; they are resized to"
            " squares alone"
        )
    if there.image_shape[-1] != info.image_shape[-1]:
        channels = f"{there.image_shape[-1]} channels, and the network takes"
        raise UserError(f"images of {there.name} have {channels} {info.image_shape[-1]}")
    sharding = mesh_lib.batch_sharding(mesh_lib.make_mesh())
    found = []
    for split in (there.train_split, there.eval_split):
        config.data.eval_split = split
        batches = data.eval_batches(
            config.data, batch_size=config.eval_batch_size, sharding=sharding
        )
        found.append(split_features(restored, batches, given.endpoint))
    return found[0], found[1]


def draw(records: Sequence[dict[str, Any]]) -> Figure:
    """Draw a bar with its interval for each classifier."""
    figure = Figure(figsize=(1.5 + 0.9 * len(records), 3.6), dpi=120, layout="constrained")
    axes = figure.subplots()
    heights = np.array([100 * record["accuracy"] for record in records])
    ends = 100 * np.array([(record["low"], record["high"]) for record in records])
    bars = axes.bar(range(len(records)), heights, 0.6, yerr=np.abs(ends.T - heights), capsize=3)
    axes.bar_label(bars, fmt="%.1f", label_type="center", fontsize=8, color="white")
    names = [f"{record['method']}\n{record['images']:,} images" for record in records]
    axes.set_xticks(range(len(records)), names, fontsize=8)
    axes.set(ylabel="accuracy, %", ylim=(0, 102))
    return figure


def _cells(record: dict[str, Any]) -> dict[str, str]:
    """Return a row of the printed table."""
    return {
        "method": record["method"],
        "training images": f"{record['images']:,}",
        **command.accuracy_cells(record),
        "setting": record["setting"],
    }
