"""Gates of HCGNet over the test set: the features that they forget, the scale that they prefer.

Yang et al., arXiv 1908.09699. A module computes SMG(x) = X * f(X) + v(A, B), with the gates

    forget gate   f in (0, 1) [channels], eq. 11: the share of each channel of X that is kept
    update gate   u in (0, 1) [channels], eq. 8 to 10: v = u P(A) + (1 - u) P(B), the share of the
                  3x3 convolution A against the dilated one B, which spans 5x5

Gates are recorded while the network computes them, once for every image of the test set. Quantiles
are read from a histogram of 1,000 bins.
"""

import argparse
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aggnets_jax import data
from aggnets_jax.analysis import command
from aggnets_jax.errors import UserError
from aggnets_jax.evaluate import evaluation_batches
from aggnets_jax.files import AnyPath
from aggnets_jax.layers.smg import ForgetGate, UpdateGate
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.runtime.compilation import compiler_options
from aggnets_jax.training.state import Variables
from aggnets_jax.workdir.restore import Restored

BINS = 1000
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_TITLES = {
    "forget": "forget gate: share of X kept",
    "update": "update gate: share of the 3x3 branch",
}

GateName = tuple[str, str]
"""The module, and "forget" or "update"."""


def gate_values(
    model: nn.Module, variables: Variables, images: jax.Array
) -> dict[GateName, jax.Array]:
    """Compute the gates of a network, float [B, channels] each; traceable.

    They are in the order of their computation; a network without gates has none.
    """
    found: dict[GateName, jax.Array] = {}
    heads: dict[str, jax.Array] = {}

    def intercept(call: Any, arguments: Any, keywords: Any, context: Any) -> Any:
        results = call(*arguments, **keywords)
        module = context.module
        if context.method_name != "__call__":
            return results
        if isinstance(module.parent, UpdateGate) and module.name.startswith("head_"):
            heads[module.name] = results[:, 0, 0].astype(jnp.float32)
        elif isinstance(module, ForgetGate):
            found["/".join(module.path[:-1]), "forget"] = results[:, 0, 0]
        elif isinstance(module, UpdateGate):
            # The softmax over two heads.
            share = nn.sigmoid(heads["head_3x3"] - heads["head_5x5"])
            found["/".join(module.path[:-1]), "update"] = share
        return results

    with nn.intercept_methods(intercept):
        model.apply(variables, images, train=False)
    return found


class Gate(NamedTuple):
    """Sums over the test set for a gate with C channels, in a network with K classes."""

    histogram: np.ndarray  # [BINS] of all values
    sums: np.ndarray  # [C] of the values of each channel
    squares: np.ndarray  # [C] of their squares
    of_classes: np.ndarray  # [K], by class the sum over its images of the mean over channels
    images: np.ndarray  # [K], number of images of each class


def gate_statistics(restored: Restored, batches: Iterable[data.Batch]) -> dict[GateName, Gate]:
    """Run a network over batches of the test set and sum over its gates, in the network's order."""
    preprocess = data.make_preprocess(restored.config.data, restored.info)
    classes = restored.info.num_classes
    names: list[GateName] = []

    @partial(jax.jit, compiler_options=compiler_options())
    def compute(variables: Variables, batch: data.Batch) -> list[jax.Array]:
        found = gate_values(restored.model, variables, preprocess(batch, train=False))
        names[:] = found  # in their order, which mappings lose here
        return list(found.values())

    total: list[Gate] = []
    for batch in batches:
        gates = compute(restored.variables, batch)
        gates, labels, mask = jax.device_get((gates, batch["label"], batch["mask"]))
        sums = [_sums(values[mask], labels[mask], classes) for values in gates]
        total = jax.tree.map(np.add, total, sums) if total else sums
    return dict(zip(names, total, strict=True))


def _sums(values: np.ndarray, labels: np.ndarray, classes: int) -> Gate:
    values = values.astype(np.float64)
    return Gate(
        histogram=np.histogram(values, BINS, (0, 1))[0],
        sums=values.sum(axis=0),
        squares=(values**2).sum(axis=0),
        of_classes=np.bincount(labels, values.mean(axis=1), classes),
        images=np.bincount(labels, minlength=classes),
    )


def quantiles(histogram: np.ndarray) -> np.ndarray:
    """Return the `QUANTILES` of values from a histogram over [0, 1], to the width of a bin."""
    cumulated = np.cumsum(histogram) / histogram.sum()
    bins = np.searchsorted(cumulated, QUANTILES)
    into = 1 - (cumulated[bins] - QUANTILES) * histogram.sum() / histogram[bins]
    return (bins + into) / len(histogram)


def describe(gate: Gate) -> dict[str, float]:
    """Compute the numbers of a gate.

    Returns:
      `mean` and `std` of all values; `std_channels`, between the means of channels, and
      `std_images`, within a channel over images, whose squares add up to the square of `std`;
      `std_classes`, between the means of classes; and the quantiles `q05`, ....
    """
    count = gate.images.sum()
    means = gate.sums / count
    within = np.maximum(gate.squares / count - means**2, 0).mean()
    seen = gate.images > 0
    found = {
        "mean": means.mean(),
        "std": np.sqrt(within + means.var()),
        "std_channels": np.sqrt(means.var()),
        "std_images": np.sqrt(within),
        "std_classes": (gate.of_classes[seen] / gate.images[seen]).std(),
    }
    names = (f"q{100 * q:02.0f}" for q in QUANTILES)
    found |= dict(zip(names, quantiles(gate.histogram), strict=True))
    return {name: float(value) for name, value in found.items()}


def draw(found: Mapping[GateName, Gate], class_names: Sequence[str]) -> Figure:
    """Draw a row for each kind of gate: its values, and its means by class."""
    modules = {kind: [module for module, other in found if other == kind] for kind in _TITLES}
    titles = {kind: title for kind, title in _TITLES.items() if modules[kind]}
    most_modules = max(map(len, modules.values()))
    figure = Figure((4 + 0.6 * most_modules, 3.2 * len(titles)), dpi=120, layout="compressed")
    rows = figure.subplots(len(titles), 2, squeeze=False)
    for (left, right), (kind, title) in zip(rows, titles.items(), strict=True):
        gates = [found[module, kind] for module in modules[kind]]
        _draw_values(left, gates)
        left.set_title(title, fontsize=9)
        means = [gate.of_classes / np.maximum(gate.images, 1) for gate in gates]
        differences = np.stack(means, axis=1) - [describe(gate)["mean"] for gate in gates]
        differences[gates[0].images == 0] = np.nan
        most = float(np.nanmax(np.abs(differences)))
        colours = {"cmap": "RdBu_r", "vmin": -most, "vmax": most}
        image = right.imshow(differences, **colours, aspect="auto", interpolation="none")
        right.set_title("mean of a class - mean of all", fontsize=9)
        step = math.ceil(len(class_names) / 20)
        names = [name[:16] for name in class_names[::step]]
        right.set_yticks(range(0, len(class_names), step), names)
        figure.colorbar(image, ax=right).ax.tick_params(labelsize=7)
        for axes in (left, right):
            axes.set_xticks(range(len(gates)), modules[kind], rotation=90)
            axes.tick_params(labelsize=7)
    return figure


def _draw_values(axes: Axes, gates: Sequence[Gate]) -> None:
    """Draw quantiles of all values as bands and the means of channels as dots, by module."""
    low, lower, middle, upper, high = np.stack([quantiles(gate.histogram) for gate in gates]).T
    places = np.arange(len(gates))
    axes.bar(places, high - low, 0.6, low, color="#d3e3e9", label="5 to 95 %")
    axes.bar(places, upper - lower, 0.6, lower, color="#8fb9c7", label="25 to 75 %")
    axes.hlines(middle, places - 0.3, places + 0.3, color="#253237", label="median")
    style = {"color": "#c1440e", "markersize": 2.5, "label": "mean of a channel"}
    for place, gate in enumerate(gates):
        means = np.sort(gate.sums / gate.images.sum())
        axes.plot(place + np.linspace(-0.25, 0.25, len(means)), means, ".", **style)
        style["label"] = None
    axes.set_ylim(0, 1)
    axes.grid(axis="y", alpha=0.25)
    axes.legend(frameon=False, fontsize=7, ncols=2)


add_arguments = command.add_data_dir


def run(restored: Restored, given: argparse.Namespace, output: AnyPath) -> None:
    """Print, write and draw the values of gates."""
    images = jnp.zeros((1, *restored.info.image_shape))
    if not jax.eval_shape(partial(gate_values, restored.model), restored.variables, images):
        raise UserError(f"{restored.config.model.name} has no gates; HCGNet has")
    batches = evaluation_batches(restored, mesh_lib.make_mesh(), given.data_dir)
    found = gate_statistics(restored, batches)
    rows = [
        {"module": module, "gate": kind, "channels": len(gate.sums), **describe(gate)}
        for (module, kind), gate in found.items()
    ]
    of_classes = [
        {
            "module": module,
            "gate": kind,
            "class": name,
            "images": int(gate.images[number]),
            "mean": gate.of_classes[number] / max(gate.images[number], 1),
        }
        for (module, kind), gate in found.items()
        for number, name in enumerate(restored.info.class_names)
    ]
    title = command.headline(restored, given, f"gates over {batches.num_examples} images")
    files = {"gates": rows, "gates_classes": of_classes}
    shown = command.to_texts(rows, ".3f")
    command.publish(output, title, shown, files, draw(found, restored.info.class_names))
