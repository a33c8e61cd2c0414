"""Draw compile time and memory by depth: python results/depth.py.

Writes results/depth.png from the table `depth` of results/speed.csv: seconds to compile a training
step and its temporary memory, with unrolled (rematerialised) layers and with loops over layers.
"""

import re
from pathlib import Path

import matplotlib.pyplot as plt

from aggnets_jax.benchmark.rows import read_records

HERE = Path(__file__).parent
STYLES = {"remat=layer": "--", "scan": "-"}
MEASURES = {"compile_s": "compilation, s", "temp_mb": "temporary memory, MB"}


def main() -> None:
    """Draw a panel for each measure, with a line for each family and form."""
    rows = [row for row in read_records(HERE / "speed.csv") if row["table"] == "depth"]
    families = sorted({_family(row["model"]) for row in rows})
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
    for axis, (measure, label) in zip(axes, MEASURES.items(), strict=True):
        for color, family in enumerate(families):
            for form, style in STYLES.items():
                points = sorted(
                    (_depth(row["model"]), float(row[measure]))
                    for row in rows
                    if (_family(row["model"]), row["form"]) == (family, form)
                )
                if points:
                    name = f"{family}, {'loops' if form == 'scan' else 'written out'}"
                    axis.plot(*zip(*points, strict=True), f"C{color}o{style}", label=name)
        axis.set(xlabel="depth", ylabel=label, xscale="log", yscale="log")
    axes[0].legend(fontsize="x-small")
    figure.savefig(HERE / "depth.png", dpi=120)


def _family(model: str) -> str:
    return re.sub(r"\d+", "", model, count=1)


def _depth(model: str) -> int:
    return int(re.search(r"\d+", model)[0])


if __name__ == "__main__":
    main()
