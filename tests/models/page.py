"""docs/models.md, read back: the golden table of all listed networks."""

import re
from pathlib import Path
from typing import NamedTuple

_FILE = Path(__file__).parents[2] / "docs" / "models.md"


class Row(NamedTuple):
    line: str
    params: dict[int, int]
    macs: int
    flops: float

    def macs_with(self, classes: int) -> int:
        """Those with another head, from what the heads differ in."""
        if classes not in self.params:
            raise KeyError(classes)
        features = (self.params[100] - self.params[10]) // 90 - 1 if 10 in self.params else 0
        return self.macs + features * (classes - min(self.params))


def _row(line: str) -> tuple[str, Row]:
    _, name, params, macs, flops, *_ = (cell.strip() for cell in line.split("|"))
    heads = re.findall(r"([\d,]+) \((\d+)\)", params)
    return name.strip("`"), Row(
        line,
        {int(classes): int(number.replace(",", "")) for number, classes in heads},
        int(macs.replace(",", "")),
        float(flops.removesuffix("G")) * 1e9,
    )


ROWS: dict[str, Row] = dict(
    _row(line)
    for line in _FILE.read_text().splitlines()
    if line.startswith("| `") and line.count(" | ") > 3  # families have fewer columns
)
