"""Calibration: whether a network is right as often as its probabilities say.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, arXiv 1706.04599. With the
confidence p of an image, its largest probability, and bins B_m of images by confidence,

    ECE = sum over m of |B_m| / n  |accuracy(B_m) - mean confidence(B_m)|        (eq. 3)

over bins of equal width; the adaptive ECE has bins of equally many images (Nguyen and O'Connor,
arXiv 1508.05154). The Brier score is the mean squared distance of the probabilities to the true
class as 0 and 1, summed over classes (Brier, 1950), in 0..2. Temperature scaling divides logits by
the T of lowest cross entropy (Section 4.2). The T of the images with even numbers is applied to the
images with odd numbers, and the other way round, so no image is scored with a T fitted to it.
Selective accuracy is the accuracy on the most confident images.
"""

import argparse
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import optimize, special

from aggnets_jax.analysis import command
from aggnets_jax.analysis.outputs import Outputs, split_logits
from aggnets_jax.errors import UserError
from aggnets_jax.evaluate import evaluation_batches, other_evaluation
from aggnets_jax.files import AnyPath
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.statistics import accuracy_interval
from aggnets_jax.workdir.restore import Restored

BINS = 15
"""Number of bins by default."""

COVERAGES = (0.9, 0.8, 0.5)
"""Parts of the images, the most confident ones, whose accuracy is measured."""


class Bins(NamedTuple):
    """Images by confidence; empty bins are left out.

    Attributes:
      low: lower edge of each bin, float [bins].
      high: upper edge.
      count: its images, int [bins].
      confidence: their mean confidence, in 0..1.
      accuracy: their accuracy, in 0..1.
    """

    low: np.ndarray
    high: np.ndarray
    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error (ECE, eq. 3), in 0..1."""
        gaps = np.abs(self.accuracy - self.confidence)
        return float(np.sum(self.count * gaps) / np.sum(self.count))


def make_bins(
    confidence: np.ndarray, correct: np.ndarray, bins: int = BINS, *, adaptive: bool = False
) -> Bins:
    """Divide images by confidence into bins of equal width, (low, high], or of equal numbers.

    Args:
      confidence: float [n], in 0..1.
      correct: bool [n].
      bins: number of bins.
      adaptive: whether the bins have equally many images; some have one more than others.
    """
    order = np.argsort(confidence, kind="stable")
    edges = np.linspace(0, 1, bins + 1)
    if adaptive:
        parts = [part for part in np.array_split(order, bins) if len(part)]
        low, high = np.transpose([(confidence[p[0]], confidence[p[-1]]) for p in parts])
    else:
        places = np.searchsorted(edges[1:-1], confidence[order], side="left")
        filled = np.unique(places)
        parts = [order[places == place] for place in filled]
        low, high = edges[filled], edges[filled + 1]
    means = [(len(p), confidence[p].mean(), correct[p].mean()) for p in parts]
    count, mean, accuracy = np.transpose(means)
    return Bins(low, high, count.astype(int), mean, accuracy)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities of logits [n, classes], float64 of the same shape."""
    return special.softmax(np.float64(logits), axis=-1)


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean cross entropy of logits [n, classes] and labels, int [n], in nats."""
    logs = special.log_softmax(np.float64(logits), axis=-1)
    return float(-np.mean(logs[np.arange(len(labels)), labels]))


def confidences(outputs: Outputs) -> tuple[np.ndarray, np.ndarray]:
    """Return the confidence of each image, float64 [n], and which are right, bool [n]."""
    probabilities = softmax(outputs.values)
    return probabilities.max(axis=-1), probabilities.argmax(axis=-1) == outputs.labels


def fit_temperature(outputs: Outputs) -> float:
    """Return the temperature of lowest cross entropy, in 0.01..100."""

    def loss(log_temperature: float) -> float:
        return cross_entropy(outputs.values / np.exp(log_temperature), outputs.labels)

    bounds = (np.log(0.01), np.log(100))
    return float(np.exp(optimize.minimize_scalar(loss, bounds=bounds, method="bounded").x))


def scale_temperature(outputs: Outputs) -> tuple[Outputs, tuple[float, float]]:
    """Divide the logits of each half by the temperature of the other half.

    Returns:
      The scaled outputs, and the temperatures by which the images with even and with odd numbers
      are divided.
    """
    halves = [np.arange(len(outputs.labels)) % 2 == half for half in (0, 1)]
    fitted = [fit_temperature(Outputs(*(part[half] for part in outputs))) for half in halves]
    own = np.where(halves[0], fitted[1], fitted[0])
    return outputs._replace(values=outputs.values / own[:, None]), tuple(own[:2].tolist())


def measure(outputs: Outputs, bins: int = BINS) -> dict[str, Any]:
    """Return the figures of calibration, by name; all but `loss` and `brier` are in 0..1."""
    probabilities, labels = softmax(outputs.values), outputs.labels
    confidence, correct = confidences(outputs)
    wanted = np.eye(probabilities.shape[-1])[labels]
    surest = correct[np.argsort(-confidence, kind="stable")]
    return {
        "accuracy": float(correct.mean()),
        "mean_confidence": float(confidence.mean()),
        "ece": make_bins(confidence, correct, bins).error,
        "adaptive_ece": make_bins(confidence, correct, bins, adaptive=True).error,
        "brier": float(np.mean(np.sum((probabilities - wanted) ** 2, axis=-1))),
        "loss": cross_entropy(outputs.values, labels),
        **{
            f"accuracy_at_{100 * part:g}": float(surest[: max(1, round(part * len(surest)))].mean())
            for part in COVERAGES
        },
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this analysis."""
    parser.add_argument(
        "--bins", type=int, default=BINS, help=f"bins of confidence; default {BINS}"
    )
    text = "another data set, with all or some of the classes"
    parser.add_argument("--data", metavar="NAME", help=text)
    text = "split of --data; default test, validation or val"
    parser.add_argument("--split", help=text)
    command.add_data_dir(parser)


def run(restored: Restored, given: argparse.Namespace, output: AnyPath) -> None:
    """Print, write and draw the calibration, before and after temperature scaling."""
    if given.bins < 1:
        raise UserError(f"--bins must be at least 1, not {given.bins}")
    outputs = _outputs(restored, given)
    if len(outputs.labels) < 2:
        raise UserError("calibration needs at least two images")
    scaled, temperatures = scale_temperature(outputs)
    versions = {
        "as trained": (outputs, (1.0, 1.0)),
        "temperature scaling": (scaled, temperatures),
    }
    records = [
        {
            "probabilities": name,
            "temperature_even": pair[0],
            "temperature_odd": pair[1],
            **measure(version, given.bins),
        }
        for name, (version, pair) in versions.items()
    ]
    diagrams = {
        name: make_bins(*confidences(each), given.bins) for name, (each, _) in versions.items()
    }
    in_bins = [
        {"probabilities": name, **dict(zip(Bins._fields, map(float, row), strict=True))}
        for name, bins in diagrams.items()
        for row in zip(*bins, strict=True)
    ]
    command.publish(
        output,
        command.headline(restored, given, f"calibration on {len(outputs.labels):,} images"),
        list(map(_cells, records)),
        {"calibration": records, "calibration_bins": in_bins},
        draw({name: (diagrams[name], version) for name, (version, _) in versions.items()}),
    )


def _outputs(restored: Restored, given: argparse.Namespace) -> Outputs:
    mesh = mesh_lib.make_mesh()
    if given.data is None:
        if given.split is not None:
            raise UserError("--split is for --data")
        return split_logits(restored, evaluation_batches(restored, mesh, given.data_dir))
    model, batches = other_evaluation(restored, mesh, given.data, given.data_dir, given.split)
    return split_logits(restored._replace(model=model), batches)


def draw(versions: dict[str, tuple[Bins, Outputs]]) -> Figure:
    """Draw a reliability diagram for each version of the probabilities, and selective accuracy."""
    figure = Figure(figsize=(3.6 * (len(versions) + 1), 3.6), dpi=120, layout="constrained")
    *diagrams, selective = figure.subplots(1, len(versions) + 1)
    for axes, (name, (bins, outputs)) in zip(diagrams, versions.items(), strict=True):
        _draw_reliability(axes, bins)
        axes.set_title(f"{name}: ECE {bins.error:.2%}", fontsize=9)
        confidence, correct = confidences(outputs)
        surest = correct[np.argsort(-confidence, kind="stable")]
        kept = np.arange(1, len(surest) + 1)
        selective.plot(kept / len(surest), np.cumsum(surest) / kept, label=name)
    selective.set(xlabel="most confident part of the images", ylabel="accuracy")
    selective.grid(alpha=0.25)
    selective.legend(fontsize=8)
    return figure


def _draw_reliability(axes: Axes, bins: Bins) -> None:
    ends = [
        accuracy_interval(accuracy, int(count))
        for accuracy, count in zip(bins.accuracy, bins.count, strict=True)
    ]
    spread = np.abs(np.transpose(ends) - bins.accuracy)
    axes.plot([0, 1], [0, 1], "--", color="0.6", linewidth=1)
    axes.bar(bins.low, bins.accuracy, bins.high - bins.low, align="edge", alpha=0.4)
    axes.errorbar(bins.confidence, bins.accuracy, spread, fmt="o", markersize=3, linewidth=1)
    axes.set(xlabel="confidence", ylabel="accuracy, 95 % interval", xlim=(0, 1), ylim=(0, 1.02))


def _cells(record: dict[str, Any]) -> dict[str, str]:
    """Return a row of the printed table."""
    pair = (record["temperature_even"], record["temperature_odd"])
    return {
        "probabilities": record["probabilities"],
        "temperatures": ", ".join(f"{value:.3f}" for value in pair),
        "accuracy": f"{record['accuracy']:.2%}",
        "mean confidence": f"{record['mean_confidence']:.2%}",
        "ECE": f"{record['ece']:.2%}",
        "adaptive ECE": f"{record['adaptive_ece']:.2%}",
        "Brier": f"{record['brier']:.4f}",
        "loss": f"{record['loss']:.4f}",
        **{
            f"surest {100 * part:g} %": f"{record[f'accuracy_at_{100 * part:g}']:.2%}"
            for part in COVERAGES
        },
    }
