"""Sets of links that are cut together: single links, by source, by layer, by length, or others."""

import csv
import io
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from aggnets_jax.ablation.tally import BOX_COLUMNS, COLUMNS, MASK_COLUMNS
from aggnets_jax.connectivity.links import StageLinks, all_links, masks_without
from aggnets_jax.connectivity.patterns import Link
from aggnets_jax.errors import UserError, one_line, unknown
from aggnets_jax.files import any_path, is_line, read_text

Stages = Mapping[str, StageLinks]
"""From `links.find_links`."""

StageLink = tuple[str, Link]
"""`(stage, (layer, source))`."""

EVERYWHERE = "all"
"""The name of all stages together."""

_INLINE = re.compile(r"(?P<stage>[^:,]+):(?P<layer>\d{1,9})-(?P<source>\d{1,9})")
_KEY = ("stage", "layer", "source")


class CutSet(NamedTuple):
    """Links that are cut together.

    The `key` has the columns that identify the set among others of its kind.
    """

    key: Mapping[str, Any]
    links: tuple[StageLink, ...]


def single_links(stages: Stages) -> list[CutSet]:
    """Return each link by itself: `stage`, `layer`, `source`."""
    return [
        CutSet({"stage": stage, "layer": layer, "source": source}, ((stage, (layer, source)),))
        for stage, (layer, source) in all_links(stages)
    ]


def by_source(stages: Stages) -> list[CutSet]:
    """Return all links out of each output: `stage`, `source`, and `links`, their number."""
    return _grouped(stages, lambda stage, link: {"stage": stage, "source": link[1]})


def by_layer(stages: Stages) -> list[CutSet]:
    """Return all links into each layer: `stage`, `layer`, and `links`, their number."""
    return _grouped(stages, lambda stage, link: {"stage": stage, "layer": link[0]})


def by_distance(stages: Stages) -> list[CutSet]:
    """Return all links of each length layer - source: `stage`, `distance`, and `links`.

    If there are several stages, the first sets are of all stages together, with the `stage` "all".
    """
    each = _grouped(stages, lambda stage, link: {"stage": stage, "distance": link[0] - link[1]})
    if len(stages) == 1:
        return each
    key = {"stage": EVERYWHERE}
    return _grouped(stages, lambda _, link: {**key, "distance": link[0] - link[1]}) + each


def _grouped(stages: Stages, key_of: Callable[[str, Link], Mapping[str, Any]]) -> list[CutSet]:
    """Group links by their key; sort by the order of stages, then by the number in the key."""
    groups: dict[tuple[Any, ...], list[StageLink]] = {}
    for stage, link in all_links(stages):
        groups.setdefault(tuple(key_of(stage, link).items()), []).append((stage, link))
    order = [EVERYWHERE, *stages]
    return [
        CutSet({**dict(key), "links": len(groups[key])}, tuple(groups[key]))
        for key in sorted(groups, key=lambda key: (order.index(key[0][1]), key[1][1]))
    ]


def check_draws(draws: int, seed: int) -> None:
    """Raise `UserError` for less than one draw, or a seed below 0."""
    if draws < 1:
        raise UserError(f"draws must be at least 1, not {draws}")
    if seed < 0:
        raise UserError(f"the seed of the draws must be at least 0, not {seed}")


def random_sets(stages: Stages, draws: int = 10, seed: int = 0) -> list[CutSet]:
    """Return random sets of 1, 2, 4, 8, ... links, and all: `links`, `draw`, `seed`, and `cut`.

    The sets of a draw are the beginnings of one random order of all links, drawn by
    `np.random.default_rng([seed, draw])`. So a smaller set is a part of each larger one, and more
    draws leave the first ones as they are. `cut` names the links, see `to_text`.

    Raises:
      UserError: as `check_draws`.
    """
    check_draws(draws, seed)
    links = all_links(stages)
    orders = [np.random.default_rng([seed, draw]).permutation(len(links)) for draw in range(draws)]
    sizes = [2**i for i in range((len(links) - 1).bit_length())]
    drawn = list(itertools.product(sizes, enumerate(orders)))
    sets = []
    for size, (draw, order) in [*drawn, (len(links), (0, orders[0]))]:
        cut = [links[i] for i in sorted(order[:size])]
        key = {"links": size, "draw": draw, "seed": seed, "cut": to_text(cut)}
        sets.append(CutSet(key, tuple(cut)))
    return sets


def to_text(links: Iterable[StageLink]) -> str:
    """Return links as a text that `listed_sets` takes, such as "stage1:3-1,stage1:4-0"."""
    return ",".join(f"{stage}:{layer}-{source}" for stage, (layer, source) in links)


def listed_sets(texts: Sequence[str], stages: Stages) -> list[CutSet]:
    """Return the sets that a user lists: `set`, the name, and `links`, their number.

    A text has the links of a set, as by `to_text`, and is then its name; or it is a CSV file, with
    a name that ends with .csv, with the columns `stage`, `layer`, `source`, and maybe `set`, the
    name of the set that a link belongs to. Without it all links of the file are one set with the
    name of the file. The other columns of `links.csv` are not read.

    Raises:
      UserError: for a file that can't be read, a text that names no links, a link that does not
        exist, or a set that is listed twice.
    """
    named: dict[str, list[StageLink]] = {}
    for text in texts:
        listed = _read_file(text) if text.lower().endswith(".csv") else {text: _parse(text)}
        for name, links in listed.items():
            if name in named:
                raise UserError(f"the set {name!r} of links to cut is listed twice")
            named[name] = links
    for links in named.values():
        masks_without(stages, links)  # raises for a link that does not exist
    unique = {name: tuple(dict.fromkeys(links)) for name, links in named.items()}
    return [CutSet({"set": name, "links": len(links)}, links) for name, links in unique.items()]


def _parse(text: str) -> list[StageLink]:
    links = []
    for part in filter(None, map(str.strip, text.split(","))):
        match = _INLINE.fullmatch(part)
        if match is None:
            raise UserError(
                f"{part!r} is no link: give STAGE:LAYER-SOURCE, several with commas between them,"
                " such as stage1:3-1,stage1:4-0, or a file whose name ends with .csv"
            )
        links.append((match["stage"], (int(match["layer"]), int(match["source"]))))
    if not links:
        raise UserError(f"{text!r} names no links to cut")
    return links


def _read_file(file: str) -> dict[str, list[StageLink]]:
    text = read_text(any_path(file))
    try:
        lines = list(csv.reader(io.StringIO(text, newline="")))
    except csv.Error as error:  # a NUL in it
        raise UserError(f"{file} can't be read: {one_line(error)}") from error
    columns = lines[0] if lines else []
    for column in columns:
        if column not in ("set", *_KEY, *COLUMNS, *BOX_COLUMNS, *MASK_COLUMNS):
            raise unknown(f"column of {file}", column, ("set", *_KEY))
    if any(columns.count(column) != 1 for column in _KEY):
        raise UserError(f"{file} must have each of the columns {', '.join(_KEY)} once, in line 1")
    named: dict[str, list[StageLink]] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line:
            continue
        if len(line) != len(columns):
            raise UserError(f"{file}, line {number}: {len(line)} values for {len(columns)} columns")
        row = dict(zip(columns, line, strict=True))
        for column in ("layer", "source"):
            if not re.fullmatch(r"[0-9]{1,9}", text := row[column]):
                why = f"{column} must be a whole number, got {one_line(text)!r}"
                raise UserError(f"{file}, line {number}: {why}")
        name = row.get("set", Path(file).stem)
        if not is_line(name):
            raise UserError(f"{file}, line {number}: the name of a set must be one line of text")
        link = row["stage"], (int(row["layer"]), int(row["source"]))
        named.setdefault(name, []).append(link)
    if not named:
        raise UserError(f"{file} names no links to cut")
    return named
