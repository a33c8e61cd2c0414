"""The page of all networks: `aggnets models --page > docs/models.md`."""

import functools
import inspect
import itertools
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from aggnets_jax.models.flops import multiply_adds
from aggnets_jax.models.papers import Printed
from aggnets_jax.models.registry import (
    create_model,
    find_family,
    list_families,
    model_info,
    paper_flops,
)

_HEAD = """# All networks

Made by `aggnets models --page > docs/models.md`.

The columns of the tables below:

* parameters: trainable scalars, by the number of classes;
* MACs: multiply-adds of convolutions and linear layers for one image;
* FLOPs: as the network's paper counts them (`aggnets_jax.models.flops`);
* links: the links into layers, without those into the stages' outputs;
* printed: parameters, FLOPs and top-1 errors in percent, as a paper's table prints them
  (`aggnets_jax/models/papers.csv`).

## Families

Every name that fits a row is a network: `create_model("densenet_bc160_k18")`. Its numbers may also
be arguments: `create_model("densenet_bc", depth=160, growth_rate=18)`. In the names, `[...]` may be
missing, and `(a|b)` is a choice.

| family | names | paper |
|---|---|---|
"""

_COLUMNS = ("network", "parameters", "MACs", "FLOPs", "links", "printed", "remark")
_DATA_SETS = {"cifar10": "C10", "cifar100": "C100", "imagenet2012": "ImageNet"}


def facts(name: str) -> dict[str, str]:
    """Return the texts of a network, by column; networks that no paper prints have no figures."""
    info, macs = model_info(name), {}
    flops = info.macs if find_family(name).flops is multiply_adds else paper_flops(name)
    heads = {info.num_classes: info.params}
    if info.num_classes == 10 and getattr(create_model(name), "linear_head", True):
        # A classifier has as many weights and one bias for each class.
        heads[100] = info.params + 9 * info.parts["classifier"].params
    elif info.num_classes == 10:
        larger = model_info(name, 100)
        heads[100], macs = larger.params, {10: info.macs, 100: larger.macs}
    return {
        "network": name,
        "parameters": _by_classes(heads),
        "MACs": _by_classes(macs) or f"{info.macs:,}",
        "FLOPs": f"{flops / 1e9:.3f}G",
        "links": f"{info.links:,}",
        "printed": _figures(info.printed) if info.printed else "",
        "remark": info.printed.remark if info.printed else "",
    }


def show(name: str) -> None:
    """Print the facts about a network, and the arguments of its family."""
    family = find_family(name)
    described = {**facts(name), "paper": family.paper}
    print("\n".join(f"{title:<12}{text}" for title, text in described.items() if text))
    print(f"\narguments of {family.name}, for create_model and config.model.args:")
    for argument, (kind, default, meaning) in model_info(name).arguments.items():
        shown = getattr(default, "__name__", repr(default))  # of a dtype
        given = "" if default is inspect.Parameter.empty else f" = {shown}"
        print(f"  {argument}: {kind}{given}")
        print(textwrap.fill(meaning, 96, initial_indent=" " * 6, subsequent_indent=" " * 6))


def _by_classes(numbers: Mapping[int, int]) -> str:
    """Return numbers, each followed by the size of the head."""
    return " / ".join(f"{number:,} ({classes})" for classes, number in numbers.items())


def _figures(printed: Printed) -> str:
    """Return the numbers that a paper prints about a network."""
    errors = [f"{_DATA_SETS[data]} {error:g}" for data, error in printed.error.items()]
    numbers = [printed.params, printed.flops and f"{printed.flops} FLOPs", *errors]
    return f"{printed.source}: {', '.join(filter(None, numbers))}".removesuffix(": ")


def row(name: str) -> str:
    """Return a network's line of the table."""
    return f"| {' | '.join([f'`{name}`', *list(facts(name).values())[1:]])} |"


def family_row(name: str) -> str:
    """Return a family's line: its name, the pattern of its networks' names, and its paper."""
    family = find_family(name)
    return f"| `{name}` | `{_readable(family.pattern.pattern)}` | {family.paper} |"


def _readable(pattern: str) -> str:
    """Return a regular expression in the form `densenet{depth}[_k{growth_rate}]`."""
    for found, written in [
        (r"\(\?P<(\w+)>\\d[^()]*(\([^()]*\)[^()]*)*\)", r"{\1}"),  # numbers
        (r"\(\?(?:P<\w+>|:)", "("),  # other groups
        (r"\(([^()]*(?:\([^()]*\)[^()]*)*)\)\?", r"[\1]"),  # optional ones
        (r"\|", r"\|"),  # a table's cells end at bars
    ]:
        pattern = re.sub(found, written, pattern)
    return pattern


def page(rows: dict[str, str]) -> str:
    """Return the whole page from the lines of all networks."""
    parts = [_HEAD + "\n".join([*map(family_row, list_families()), ""])]
    families = {name: find_family(name) for name in rows}
    names = sorted(rows, key=lambda name: (families[name].name, name))
    for family, group in itertools.groupby(names, key=families.get):
        header = [f"| {' | '.join(_COLUMNS)} |", f"|{'---|' * len(_COLUMNS)}"]
        parts.append(
            "\n".join(
                [f"## {family.name}\n", f"{family.paper}\n", *header, *map(rows.get, group), ""]
            )
        )
    return "\n".join(parts)


class Row(NamedTuple):
    """A network's line of the table, read back.

    Attributes:
      line: whole line.
      params: trainable scalars, by the number of classes.
      macs: multiply-adds for one image by the number of classes; networks that end with a linear
        layer alone have the ones with the fewest classes of `params`.
      flops: FLOPs in the convention of the network's paper.
    """

    line: str
    params: Mapping[int, int]
    macs: Mapping[int, int]
    flops: float

    def macs_with(self, classes: int) -> int:
        """Return the multiply-adds with another head, from the sizes of the heads."""
        if classes not in self.params:
            raise KeyError(classes)
        if classes in self.macs:
            return self.macs[classes]
        features = (self.params[100] - self.params[10]) // 90 - 1 if 10 in self.params else 0
        least = min(self.params)
        return self.macs[least] + features * (classes - least)


def _read(cell: str) -> dict[int, int]:
    """Return the numbers of a cell, by the number of classes."""
    pairs = re.findall(r"([\d,]+) \((\d+)\)", cell)
    return {int(classes): int(number.replace(",", "")) for number, classes in pairs}


@functools.cache
def rows() -> dict[str, Row]:
    """Return the rows of docs/models.md, by network; none if the file is not there.

    Counting all of them takes minutes, reading them no time. The tests compare both.
    """
    file = Path(__file__).parents[2] / "docs" / "models.md"
    found = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        if line.startswith("| `") and line.count(" | ") > 3:  # families have fewer columns
            _, name, params, macs, flops, *_ = (cell.strip() for cell in line.split("|"))
            heads = _read(params)
            found[name.strip("`")] = Row(
                line,
                heads,
                _read(macs) or {min(heads): int(macs.replace(",", ""))},
                float(flops.removesuffix("G")) * 1e9,
            )
    return found
