"""Effect of cutting each link, as a map of each stage whose cells show their numbers."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.colors import to_hex, to_rgb

from aggnets_jax.connectivity.drawing import ACCENT, LONG
from aggnets_jax.connectivity.links import StageLinks
from aggnets_jax.files import AnyPath, check_fields, read_json
from aggnets_jax.reports.page.formats import percent, points

_FIELDS = {
    "network": {
        **dict.fromkeys(("step", "seed", "reestimate_batch_statistics"), int),
        **dict.fromkeys(("data", "split"), str),
    },
    "examples": int,
    "baseline": {"accuracy": float},
    "links": [
        {"stage": str, "layer": int, "source": int}
        | dict.fromkeys(("accuracy", "delta", "ci_low", "ci_high"), float)
    ],
}
_MOST_WORST = 8
# Columns of a map: at most so many, if there is to be room for a number in each cell, or for two
# maps side by side.
_WIDEST_WITH_NUMBERS, _NARROW = 16, 7
_ON_PHONES = 11  # columns of a map that a phone shows at once


class Cut(NamedTuple):
    """Accuracy and loss after cutting one link.

    Attributes:
      stage: name of the stage.
      layer: the reader.
      source: the output that the layer reads.
      accuracy: without the link, in 0..1.
      delta: change of the accuracy.
      ci_low: lower end of the 95 % confidence interval of delta.
      ci_high: upper end.
      loss: mean cross entropy without the link; None if it is not finite.
      loss_delta: change of the loss; None if it is not finite.
    """

    stage: str
    layer: int
    source: int
    accuracy: float
    delta: float
    ci_low: float
    ci_high: float
    loss: float | None
    loss_delta: float | None

    @property
    def is_sure(self) -> bool:
        """Return whether the confidence interval excludes 0."""
        return not self.ci_low <= 0 <= self.ci_high


def read_cuts(file: AnyPath) -> tuple[str, list[Cut]]:
    """Read an `ablation.json`; raise `UserError` if it is damaged.

    Returns:
      A sentence about the network, and the cuts of single links; no cuts if the ablation did not
      sweep over them.
    """
    record = read_json(file)
    sweeps = record.get("sweeps")
    links = sweeps.get("links", []) if isinstance(sweeps, dict) else []
    check_fields(file, {**record, "links": links}, _FIELDS)
    for number, link in enumerate(links):
        for name in ("loss", "loss_delta"):
            if link.get(name) is not None:
                check_fields(file, link[name], float, f"links[{number}].{name}")
    network = record["network"]
    again = network["reestimate_batch_statistics"]
    statistics = f", with batch statistics estimated anew from {again} batches" if again else ""
    about = (
        f"After step {network['step']}, seed {network['seed']}{statistics}, on the"
        f" {record['examples']} images of the split {network['split']} of {network['data']}: with"
        f" all links the accuracy is {percent(record['baseline']['accuracy'])}."
    )
    return about, [Cut(*(link.get(name) for name in Cut._fields)) for link in links]


class Cell(NamedTuple):
    """A link in a map; colours of the cell and of its text, such as "#c1440e"."""

    cut: Cut
    colour: str
    ink: str


class StageMap(NamedTuple):
    """Map of a stage: sources from top to bottom, layers from left to right.

    Attributes:
      name: of the stage.
      layers: numbers of the columns' layers.
      rows: number and cells of each source; an `int` is a number of columns without a link.
      caption: below the map.
      has_numbers: whether cells have room for numbers.
      is_narrow: whether two maps fit side by side, and numbers fit on a phone.
      is_wider_than_a_phone: whether it scrolls on a phone.
    """

    name: str
    layers: Sequence[int]
    rows: Sequence[tuple[int, Sequence[Cell | int]]]
    caption: str
    has_numbers: bool
    is_narrow: bool
    is_wider_than_a_phone: bool


class LinkNames:
    """Names of both ends of links.

    Args:
      stages: of the network, from `find_links`. Other stages have only numbers.
    """

    def __init__(self, stages: Mapping[str, StageLinks]) -> None:
        self._stages = stages

    def layer(self, stage: str, number: int) -> str:
        """Return the head of a column: "5", or "out" for the stage's output."""
        known = self._stages.get(stage)
        return "out" if known and number == known.topology.depth + 1 else str(number)

    def source(self, stage: str, number: int) -> str:
        """Return the head of a row: "4", or "in" for the stage's input, "in 2" of several."""
        # The inputs of a stage have the lowest numbers.
        links = self._stages[stage].links if stage in self._stages else ()
        inputs = min((layer for layer, _ in links), default=0)
        if number >= inputs:
            return str(number)
        return "in" if inputs == 1 else f"in {number}"

    def layer_phrase(self, stage: str, number: int) -> str:
        """Return the layer's name in a sentence: "layer 5" or "the output"."""
        head = self.layer(stage, number)
        return "the output" if head == "out" else f"layer {head}"

    def source_phrase(self, stage: str, number: int) -> str:
        """Return the source's name in a sentence: "4", "the input" or "input 2"."""
        head = self.source(stage, number)
        return "the input" if head == "in" else head.replace("in", "input")


class AblationMap:
    """The page's view of an ablation of single links.

    Attributes:
      cuts: of all links, grouped by stage.
      names: of their ends.
      stages: map of each stage.
      worst: cuts with the largest drop in accuracy; ties are ordered by loss.
    """

    def __init__(self, cuts: Sequence[Cut], names: LinkNames) -> None:
        self.cuts = cuts
        self.names = names
        deltas = [0.0, *(cut.delta for cut in cuts)]
        self._lowest, self._highest = min(deltas), max(deltas)
        self.worst = sorted(cuts, key=_harm)[:_MOST_WORST]
        groups = itertools.groupby(cuts, key=lambda cut: cut.stage)
        self.stages = [self._stage_map(name, list(group)) for name, group in groups]

    def phrase(self, cut: Cut) -> str:
        """Return a cut in words: "layer 5 without 4"."""
        layer = self.names.layer_phrase(cut.stage, cut.layer)
        return f"{layer} without {self.names.source_phrase(cut.stage, cut.source)}"

    def legend(self) -> list[tuple[str, float]]:
        """Return colours with their changes of accuracy, from the worst to the best."""
        largest = max(-self._lowest, self._highest)
        ends = [self._lowest, self._lowest / 4, 0.0, self._highest / 4, self._highest]
        # Leave out colours that look white.
        shown = dict.fromkeys(d + 0.0 for d in ends if not d or abs(d) > largest / 50)
        return [(self._colours(delta)[0], delta) for delta in shown]

    def _colours(self, delta: float) -> tuple[str, str]:
        """Return the colour of a change and of its text.

        Saturation grows with the square root of the change, so that small changes are visible.
        """
        largest = max(-self._lowest, self._highest)
        strength = math.sqrt(abs(delta) / largest) if largest else 0.0
        end = np.array(to_rgb(LONG if delta < 0 else ACCENT))
        ink = "#ffffff" if strength > 0.88 else "#111a1d"
        return to_hex(1 + strength * (end - 1)), ink

    def _stage_map(self, name: str, cuts: Sequence[Cut]) -> StageMap:
        layers = sorted({cut.layer for cut in cuts})
        column = {layer: number for number, layer in enumerate(layers)}
        by_source: dict[int, dict[int, Cut]] = {}
        for cut in sorted(cuts, key=lambda cut: cut.source):
            by_source.setdefault(cut.source, {})[column[cut.layer]] = cut
        rows = [(source, self._row(row, len(layers))) for source, row in by_source.items()]
        fits, narrow, phone = (
            len(layers) <= most for most in (_WIDEST_WITH_NUMBERS, _NARROW, _ON_PHONES)
        )
        return StageMap(name, layers, rows, self._caption(name, cuts), fits, narrow, not phone)

    def _row(self, cuts: Mapping[int, Cut], width: int) -> list[Cell | int]:
        """Return the cells of a source from its cuts by column."""
        cells: list[Cell | int] = []
        begin = 0
        for column in sorted(cuts):
            if column > begin:
                cells.append(column - begin)
            cells.append(Cell(cuts[column], *self._colours(cuts[column].delta)))
            begin = column + 1
        return [*cells, width - begin] if width > begin else cells

    def _caption(self, name: str, cuts: Sequence[Cut]) -> str:
        worst = min(cuts, key=_harm)
        sure = sum(cut.is_sure for cut in cuts)
        costs = f"{self.phrase(worst)} costs the most, {points(worst.delta)} points"
        return (
            f"{name}: {costs if worst.delta < 0 else 'no cut costs accuracy'}. The interval"
            f" excludes 0 for {sure} of {len(cuts)} links."
        )


def _harm(cut: Cut) -> tuple[float, float]:
    """Return a sort key, the most harmful cut first; losses that are not finite count most."""
    return cut.delta, -math.inf if cut.loss is None else -cut.loss
