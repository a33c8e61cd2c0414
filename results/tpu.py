"""Compile a network of each family for TPUs, without a TPU: `python results/tpu.py`.

Writes results/tpu.csv, a row for each network, size of images and target, with the results of
`aggnets dry-run` for a training step. At the optimisation level O1 a row takes about a minute on a
core, at the default one many minutes. It is written as soon as it is known, and the same command
goes on after an interruption: rows with results are kept, unless `--again` is given. `--networks`,
`--targets` and `--images` select some.
"""

import csv
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aggnets_jax.cli import Parser, exit_code
from aggnets_jax.models.registry import find_family, list_models
from aggnets_jax.tables import write_csv

HERE = Path(__file__).parent

# Data set, and images on each chip, by the side of a family's images.
DATA = {32: ("cifar10", 64), 224: ("imagenet2012", 32)}
TARGETS = ("v5e:2x2", "v5e:4x4")
KEY = ("network", "target", "dtype", "batch_per_chip", "level")


def networks() -> list[str]:
    """Return the network with the smallest numbers in its name, of each family."""

    def numbers(name: str) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", name)]

    listed = sorted(list_models(), key=numbers, reverse=True)
    smallest = {find_family(name).name: name for name in listed}
    return [name for name in smallest.values() if find_family(name).input_shape[0] in DATA]


def compiled(network: str, target: str, dtype: str, images: int, level: str) -> dict[str, Any]:
    """Return the dry run of a network, with so many images on each chip."""
    size = find_family(network).input_shape[0]
    data = DATA[size][0]
    chips = math.prod(map(int, target.partition(":")[2].split("x")))
    flags = {
        "config": "configs/default.py",
        "config.model.name": network,
        "config.data.name": data,
        "config.batch_size": images * chips,
        "config.eval_batch_size": images * chips,
        "config.dtype": dtype,
        "target": target,
    }
    if data == "imagenet2012":
        flags["config.data.image_size"] = size
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "found.json")
        command = [sys.executable, "-m", "aggnets_jax", "dry-run", f"--json={file}"]
        command += [f"--{name}={value}" for name, value in flags.items()]
        levels = {} if level == "default" else {"JAX_OPTIMIZATION_LEVEL": level}
        done = subprocess.run(
            command, cwd=HERE.parent, env=os.environ | levels, capture_output=True, text=True
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            print(f"{network} for {target}: {lines[-1] if lines else done.returncode}", flush=True)
            return {}
        return json.loads(file.read_text())


def row(network: str, target: str, dtype: str, images: int, level: str) -> dict[str, Any]:
    """Return the row of a network; its figures are empty if it could not be compiled."""
    values = network, target, dtype, images, level
    key, found = dict(zip(KEY, values, strict=True)), compiled(*values)
    names = ("compile_s", "memory_gb", "gflop", "flop_ratio")
    moved = ("gb", "byte_ratio", "hbm_gb", "hbm_ratio")
    collectives = ("all_reduces", "all_reduce_mb", "other_collectives")
    bounds = ("arithmetic_ms", "memory_ms", "links_ms")
    if not found:
        return key | dict.fromkeys((*names, *moved, *collectives, *bounds), "")
    kinds = dict(found["collectives"])
    reduced = kinds.pop("all-reduce", {"count": 0, "bytes": 0})
    numbers = (
        f"{found['compile_seconds']:.0f}",
        f"{found['allocated_bytes'] / 1e9:.3g}",
        f"{found['flops'] / 1e9:.4g}",
        f"{found['flops'] / found['model_flops']:.3f}",
        f"{found['bytes'] / 1e9:.4g}",
        f"{found['bytes'] / found['model_bytes']:.2f}",
        f"{found['memory_bytes'] / 1e9:.4g}",
        f"{found['memory_bytes'] / found['model_bytes']:.2f}",
    )
    times = (f"{1e3 * seconds:.3g}" for seconds in found["roofline"].values())
    return {
        **key,
        **dict(zip((*names, *moved), numbers, strict=True)),
        "all_reduces": reduced["count"],
        "all_reduce_mb": f"{reduced['bytes'] / 1e6:.4g}",
        "other_collectives": " ".join(sorted(kinds)) or "none",
        **dict(zip(bounds, times, strict=True)),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the table, a row as soon as it is known."""
    parser = Parser(description=__doc__)
    parser.add_argument("--networks", help="networks; default the smallest of each family")
    parser.add_argument("--targets", default=",".join(TARGETS), help="default %(default)s")
    parser.add_argument("--dtypes", default="bfloat16", help="default %(default)s")
    parser.add_argument(
        "--images", type=int, help="images on each chip; default 64 of CIFAR, else 32"
    )
    parser.add_argument(
        "--level",
        choices=("default", "O0", "O1", "O2", "O3"),
        default="O1",
        help="how much the compiler optimises (JAX_OPTIMIZATION_LEVEL); default %(default)s",
    )
    parser.add_argument(
        "--again", action="store_true", help="compile rows again that the table has"
    )
    parser.add_argument("--output", default=str(HERE / "tpu.csv"), help="default %(default)s")
    given = parser.parse_args(arguments)
    names = given.networks.split(",") if given.networks else networks()
    file, rows = Path(given.output), {}
    if file.exists():
        with file.open(newline="") as lines:
            for line in csv.DictReader(lines):
                rows[tuple(line[column] for column in KEY)] = line
    for target in given.targets.split(","):
        for network in names:
            for dtype in given.dtypes.split(","):
                images = given.images or DATA[find_family(network).input_shape[0]][1]
                key = network, target, dtype, str(images), given.level
                if given.again or not rows.get(key, {}).get("compile_s"):
                    rows[key] = row(network, target, dtype, images, given.level)
                    print(*rows[key].values(), flush=True)
                    write_csv(file, rows.values())


if __name__ == "__main__":
    sys.exit(exit_code(main))
