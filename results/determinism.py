"""Compare equal runs, and runs on several devices: python results/determinism.py.

Trains a small network twice for each way to read the data, on 1, 2 and 8 simulated devices, and
compares the bits of both runs: parameters, metrics and evaluations. Then compares with the run on
one device, which adds up sums in another order. Two processes run at a time. Writes
results/determinism.csv; the exit code is 1 if two equal runs differ.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import load_file
from sklearn.datasets import load_digits

from aggnets_jax.cli import Parser, exit_code
from aggnets_jax.convert.runs import export_weights
from aggnets_jax.data.digits import digits_split, first_of_each_class
from aggnets_jax.data.prepare import prepare
from aggnets_jax.errors import UserError, unknown
from aggnets_jax.tables import write_csv
from aggnets_jax.workdir.metric_log import read_json_lines

ROOT = Path(__file__).parents[1]
AT_ONCE = 2
RUN = {
    "model.name": "sparsenet10_k4",
    "model.args": {"dropout": 0.1},
    "ema_decay": 0.0,
    "total_steps": 12,
    "log_every_steps": 3,
    "eval_every_steps": 12,
    "checkpoint_every_steps": 12,
    "batch_size": 32,
    "eval_batch_size": 64,
    "lr": 0.05,
    "schedule": "constant",
    "schedule_args": {},
}
PATHS = {
    "resident": {},
    "steps_per_dispatch=3": {"steps_per_dispatch": 3},
    "streamed": {"data.resident": "never"},
    "image_folder": {"data.name": "image_folder", "data.image_size": 16},
    "accumulation_steps=2": {"accumulation_steps": 2},
    "num_seeds=2": {"num_seeds": 2},
    "batch_norm=device": {"batch_norm": "device"},
}
REMARKS = {"batch_norm=device": "each device has its own statistics: another result by design"}
# On this path each process compiles for itself; on others the second run has the first one's
# programs, to save time.
COMPILED_TWICE = "resident"
DEVICES = (1, 2, 8)


@dataclasses.dataclass
class Row:
    """Equality of two runs, and their distance from a run on one device.

    Attributes:
      path: of the data.
      devices: how many.
      compiled: "once" for both runs, or "twice".
      repeated: "equal", or what differs between the two runs.
      train_loss: the largest relative difference from the run on one device, over all lines.
      eval_loss: likewise.
      parameters: the largest difference of a parameter, relative to the largest parameter.
      remark: why more than rounding differs.
    """

    path: str
    devices: int
    compiled: str
    repeated: str
    train_loss: float
    eval_loss: float
    parameters: float
    remark: str


def write_image_folder(folder: Path) -> None:
    """Write some of the digits as PNGs, so large that random parts of them differ."""
    digits = load_digits()
    for split, numbers in zip(("train", "test"), digits_split(), strict=True):
        for number in first_of_each_class(numbers, 16, digits.target):
            path = folder / split / str(digits.target[number]) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray((digits.images[number] * 15).astype(np.uint8))
            image.resize((24, 24)).convert("RGB").save(path)


def train(folder: Path, path: str, devices: int, workdir: Path) -> None:
    """Train in a process of its own."""
    fields = {**RUN, **PATHS[path]}
    data_dir = folder / ("images" if path == "image_folder" else "data")
    process = subprocess.run(
        [
            *(sys.executable, "-m", "aggnets_jax", "train", "--config=configs/digits.py"),
            *(f"--workdir={workdir}", f"--data_dir={data_dir}"),
            *(f"--config.{name}={value}" for name, value in fields.items()),
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_ENABLE_COMPILATION_CACHE": str(path != COMPILED_TWICE),
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        },
        capture_output=True,
        text=True,
    )
    if process.returncode:
        raise RuntimeError(f"{workdir.name} ended with {process.returncode}: {process.stderr}")
    print(workdir.name, flush=True)


def summary(workdir: Path) -> dict:
    """Return the summary of a run."""
    return json.loads((workdir / "summary.json").read_text())


def unequal(first: Path, second: Path) -> list[str]:
    """Return the names of what differs between two runs, to the bit."""
    summaries = summary(first), summary(second)
    fields = ("fingerprint", "final", "best", "seeds")
    differ = [field for field in fields if summaries[0][field] != summaries[1][field]]
    if (first / "metrics.jsonl").read_bytes() != (second / "metrics.jsonl").read_bytes():
        differ.append("metrics.jsonl")
    return differ


def largest_difference(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Relative to theirs."""
    return float(np.max(np.abs(np.divide(ours, theirs) - 1)))


def losses(workdir: Path, name: str) -> list[float]:
    """All values of a metric."""
    lines = read_json_lines(workdir / "metrics.jsonl")
    return [line[name] for line in lines if name in line]


def parameters(workdir: Path) -> np.ndarray:
    """All parameters of all networks of a run, in one row; no statistics of batch normalisation."""
    arrays = []
    for of_one in summary(workdir)["seeds"]:
        file = workdir / f"{of_one['seed']}.safetensors"
        if not file.exists():
            with contextlib.redirect_stdout(None):
                export_weights(workdir, str(file), seed=of_one["seed"])
        arrays += [
            array for name, array in sorted(load_file(file).items()) if "running" not in name
        ]
    return np.concatenate([array.ravel() for array in arrays])


def compare(path: str, devices: int, runs: tuple[Path, Path], on_one: Path) -> Row:
    """Compare two runs with each other, and one of them with the run on one device."""
    first, second = runs
    ours, theirs = parameters(first), parameters(on_one)
    return Row(
        path=path,
        devices=devices,
        compiled="twice" if path == COMPILED_TWICE else "once",
        repeated=", ".join(unequal(first, second)) or "equal",
        train_loss=largest_difference(losses(first, "train/loss"), losses(on_one, "train/loss")),
        eval_loss=largest_difference(losses(first, "eval/loss"), losses(on_one, "eval/loss")),
        parameters=float(np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs))),
        remark=REMARKS.get(path, "") if devices > 1 else "",
    )


def measure(folder: Path, paths: Sequence[str]) -> tuple[list[Row], dict]:
    """Do all runs; return the rows, and the summary of one of the runs."""
    (folder / "data").mkdir()
    prepare("aggnets_digits", str(folder / "data"), None)
    write_image_folder(folder / "images")
    pairs = {
        (path, devices): tuple(folder / f"{path}-{devices}-{repeat}" for repeat in "ab")
        for path, devices in itertools.product(paths, DEVICES)
    }
    with ThreadPoolExecutor(AT_ONCE) as pool:
        started = [
            pool.submit(train, folder, *key, workdirs[repeat])
            for repeat in range(2)
            for key, workdirs in pairs.items()
        ]
        for run in started:
            run.result()
    rows = [compare(*key, runs, pairs[key[0], 1][0]) for key, runs in pairs.items()]
    return rows, summary(pairs[paths[0], 1][0])


def write(output: Path, rows: Sequence[Row], summary: dict) -> None:
    """Write the table."""
    made_with = {
        "jax": summary["versions"]["jax"],
        "commit": summary["commit"],
        "hardware": summary["hardware"],
    }
    measured = ("train_loss", "eval_loss", "parameters")
    records = []
    for row in rows:
        short = {name: f"{getattr(row, name):.1e}" for name in measured}
        records.append({**dataclasses.asdict(row), **short, **made_with})
    write_csv(output, records)


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = Parser(
        prog="python results/determinism.py",
        description="Compares equal runs to the bit, and runs on several devices with one.",
    )
    parser.add_argument(
        "--path", action="append", help="way to read the data; may be repeated; default all"
    )
    output = Path(__file__).with_suffix(".csv")
    parser.add_argument("--output", type=Path, default=output, help="default determinism.csv")
    given = parser.parse_args(arguments)
    paths = given.path or list(PATHS)
    for path in paths:
        if path not in PATHS:
            raise unknown("path", path, PATHS)
    if not given.output.parent.is_dir():
        raise UserError(f"--output={given.output}: there is no folder {given.output.parent}")
    with tempfile.TemporaryDirectory(prefix="determinism_") as folder:
        rows, summary = measure(Path(folder), paths)
    write(given.output, rows, summary)
    for row in rows:
        differences = f"{row.train_loss:.1e} {row.eval_loss:.1e} {row.parameters:.1e}"
        print(f"{row.path} on {row.devices}: {row.repeated}; from one device {differences}")
    if any(row.repeated != "equal" for row in rows):
        sys.exit("equal runs differ")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; exit with 1 if equal runs differ, return 0, or 2 for bad input."""
    return exit_code(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
