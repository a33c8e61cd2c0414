"""What cutting each link does to a network, as tables of cells that show their numbers."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.colors import to_hex, to_rgb

from aggnets_jax.connectivity.drawing import ACCENT, LONG
from aggnets_jax.connectivity.links import StageLinks
from aggnets_jax.files import check_fields, read_json
from aggnets_jax.reports.page.pictures import percent, points

_FIELDS = {
    "network": {
        "step": int,
        "seed": int,
        "data": str,
        "split": str,
        "reestimate_batch_statistics": int,
    },
    "examples": int,
    "baseline": {"accuracy": float},
    "links": [
        {
            "stage": str,
            "layer": int,
            "source": int,
            "accuracy": float,
            "delta": float,
            "ci_low": float,
            "ci_high": float,
        }
    ],
}
_MOST_WORST = 8
# Columns of a map: at most so many, if there is to be room for a number in each cell, or for two
# maps side by side.
_WIDEST_WITH_NUMBERS, _NARROW = 16, 7


class Cut(NamedTuple):
    """What became of the network without a link.

    Attributes:
      stage: name of the stage.
      layer: that reads.
      source: that it reads.
      accuracy: without the link, in 0..1.
      delta: change of the accuracy.
      ci_low: lower end of the 95 % confidence interval of delta.
      ci_high: upper end.
      loss: mean cross entropy without the link; None if it is not finite.
      loss_delta: change of the loss, likewise.
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
        """Whether the confidence interval leaves out 0."""
        return not self.ci_low <= 0 <= self.ci_high


def read_cuts(file: Path) -> tuple[str, list[Cut]]:
    """Reads the record of an ablation.

    Args:
      file: `ablation.json`.

    Returns:
      Of which network it is, and what was measured without each of its links; nothing, if these
      were not cut one by one.

    Raises:
      UserError: if it is damaged.
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
    told = (
        f"After step {network['step']}, seed {network['seed']}{statistics}, on the"
        f" {record['examples']} images of the split {network['split']} of {network['data']}: with"
        f" all links the accuracy is {percent(record['baseline']['accuracy'])}."
    )
    return told, [Cut(*(link.get(name) for name in Cut._fields)) for link in links]


class Cell(NamedTuple):
    """A link in a map.

    Attributes:
      cut: what the cell shows.
      colour: of the cell, such as "#c1440e".
      ink: of what is written on it.
    """

    cut: Cut
    colour: str
    ink: str


class StageMap(NamedTuple):
    """The map of a stage: sources from top to bottom, the layers that read them left to right.

    Attributes:
      name: of the stage.
      layers: numbers of the columns' layers.
      rows: for each source its number, and its cells; an `int` is so many columns without a link.
      caption: what is seen.
      has_numbers: whether there is room for numbers in the cells.
      is_narrow: whether two fit side by side, and numbers on a phone.
    """

    name: str
    layers: Sequence[int]
    rows: Sequence[tuple[int, Sequence[Cell | int]]]
    caption: str
    has_numbers: bool
    is_narrow: bool


class LinkNames:
    """Names of both ends of links.

    Args:
      stages: of the network, from `find_links`. Ends in other stages go by their numbers.
    """

    def __init__(self, stages: Mapping[str, StageLinks]) -> None:
        self._stages = stages

    def layer(self, stage: str, number: int) -> str:
        """Heads a column: "5", or "out" for what stands for the stage's output."""
        return "out" if self._is_output(stage, number) else str(number)

    def source(self, stage: str, number: int) -> str:
        """Heads a row: "4", or "in" for a stage's input, "in 2" if it has several."""
        inputs = self._inputs(stage)
        if number >= inputs:
            return str(number)
        return "in" if inputs == 1 else f"in {number}"

    def told_layer(self, stage: str, number: int) -> str:
        """In a sentence: "layer 5" or "the output"."""
        return "the output" if self._is_output(stage, number) else f"layer {number}"

    def told_source(self, stage: str, number: int) -> str:
        """In a sentence: "4", "the input" or "input 2"."""
        inputs = self._inputs(stage)
        if number >= inputs:
            return str(number)
        return "the input" if inputs == 1 else f"input {number}"

    def _is_output(self, stage: str, number: int) -> bool:
        return stage in self._stages and number == self._stages[stage].topology.depth + 1

    def _inputs(self, stage: str) -> int:
        """How many inputs a stage has; they have the lowest numbers."""
        links = self._stages[stage].links if stage in self._stages else ()
        return min((layer for layer, _ in links), default=0)


class AblationMap:
    """All that the page shows of the ablation of single links.

    Args:
      cuts: of all links, those of a stage together.
      names: of their ends.

    Attributes:
      cuts: as given.
      names: as given.
      stages: a map of each.
      worst: the cuts that cost the most accuracy, and of those that cost the same, the most loss.
    """

    def __init__(self, cuts: Sequence[Cut], names: LinkNames) -> None:
        self.cuts = cuts
        self.names = names
        deltas = [0.0, *(cut.delta for cut in cuts)]
        self._lowest, self._highest = min(deltas), max(deltas)
        self.worst = sorted(cuts, key=_harm)[:_MOST_WORST]
        groups = itertools.groupby(cuts, key=lambda cut: cut.stage)
        self.stages = [self._stage_map(name, list(group)) for name, group in groups]

    def told(self, cut: Cut) -> str:
        """A cut in words: "layer 5 without 4"."""
        layer = self.names.told_layer(cut.stage, cut.layer)
        return f"{layer} without {self.names.told_source(cut.stage, cut.source)}"

    def legend(self) -> list[tuple[str, float]]:
        """Colours and the changes that they stand for, from the worst to the best."""
        largest = max(-self._lowest, self._highest)
        ends = [self._lowest, self._lowest / 4, 0.0, self._highest / 4, self._highest]
        # Colours that look like white say nothing.
        shown = dict.fromkeys(d + 0.0 for d in ends if not d or abs(d) > largest / 50)
        return [(self._colours(delta)[0], delta) for delta in shown]

    def _colours(self, delta: float) -> tuple[str, str]:
        """The colour of a change, and of what is written on it.

        It grows with the square root of the change, so that small ones are seen beside large ones.
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
        fits, narrow = (len(layers) <= most for most in (_WIDEST_WITH_NUMBERS, _NARROW))
        return StageMap(name, layers, rows, self._caption(name, cuts), fits, narrow)

    def _row(self, cuts: Mapping[int, Cut], width: int) -> list[Cell | int]:
        """The cells of a source, of cuts by column."""
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
        costs = f"{self.told(worst)} costs the most, {points(worst.delta)} points"
        return (
            f"{name}: {costs if worst.delta < 0 else 'no cut costs accuracy'}. The interval leaves"
            f" out 0 for {sure} of {len(cuts)} links."
        )


def _harm(cut: Cut) -> tuple[float, float]:
    """Sorts the most harmful first; losses that are not finite have grown most."""
    return cut.delta, -math.inf if cut.loss is None else -cut.loss
