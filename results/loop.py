"""Time the training loop against its bare step, and a run's start: python results/loop.py.

Speed: a run of `train_and_evaluate` from one evaluation to the next, with log and feeds, alternates
with as many bare steps on one batch that stays on the devices. The ratio is the median over the
turns. With --data_dir, the folder of the prepared cifar10, its images are measured, too, on the
devices and streamed.

Start: seconds from the start of `aggnets train` to the line of its first step, with an empty
compilation cache and with the cache of the start before, and the seconds of the step's compilation.

Writes results/loop.csv.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np

from aggnets_jax import config as config_lib
from aggnets_jax import data, train
from aggnets_jax.benchmark.modes import train_program
from aggnets_jax.benchmark.program import Program
from aggnets_jax.models import create_configured_model
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.runtime.compilation import VARIABLE
from aggnets_jax.tables import write_csv
from aggnets_jax.training.step import default_steps_per_dispatch
from aggnets_jax.workdir.provenance import origin

TURNS = 6
COLUMNS = (
    *("data", "network", "batch", "bare_step_ms", "loop_step_ms", "loop_speed_ratio"),
    *("start_s", "start_compile_s", "cached_start_s", "cached_start_compile_s"),
    *("jax", "aggnets_jax", "commit", "hardware"),
)


def settings(data_dir: str | None) -> dict[str, dict[str, Any]]:
    """Return the measured configs: changes of the default config, by the name of the data."""
    digits = {"name": "aggnets_digits", "crop_padding": 1, "flip": False}
    cifar10 = {"name": "cifar10", "data_dir": data_dir}
    found = {"digits": {"model": {"name": "sparsenet_bc40_k24"}, "data": digits}}
    if data_dir is not None:
        for resident in ("always", "never"):
            model = {"name": "sparsenet_bc40_k12"}
            found[f"cifar10, resident {resident}"] = {
                "model": model,
                "data": {**cifar10, "resident": resident},
            }
    return found


def bare_steps(changes: dict[str, Any]) -> Program:
    """Return the step of a config on one batch, with the loop's number of steps in a dispatch."""
    config = config_lib.resolve(changes)
    info = data.describe(config.data)
    batches = data.train_batches(
        config.data,
        batch_size=config.batch_size,
        seed=0,
        sharding=mesh_lib.batch_sharding(mesh_lib.make_mesh()),
    )
    batch = jax.device_get(next(batches))
    dispatched = config.steps_per_dispatch or default_steps_per_dispatch()
    each = min(dispatched, config.log_every_steps) if info.resident else 1
    return train_program(
        create_configured_model(config, info.num_classes),
        config,
        lambda: jax.tree.map(np.copy, batch),
        data.make_preprocess(config.data, info),
        steps_per_dispatch=each,
    )


def speeds(changes: dict[str, Any], steps: int) -> tuple[float, float, float]:
    """Return the seconds of a bare step and of one of the loop, and the median of their ratios."""
    changes = {
        **changes,
        "schedule": "constant",
        "total_steps": (TURNS + 1) * steps,
        "eval_every_steps": steps,
        "checkpoint_every_steps": (TURNS + 1) * steps,
    }
    program = bare_steps(changes)
    program.run(1)
    pairs = []
    since: float | None = None

    def take_turns(*_: Any) -> dict[str, Any]:
        """In the place of an evaluation, before which the loop has waited for the devices."""
        nonlocal since
        now = time.perf_counter()
        program.run(steps)
        then = time.perf_counter()
        if since is not None:  # the loop's first steps also fill caches
            pairs.append(((then - now) / steps, (now - since) / steps))
        since = time.perf_counter()
        return {"loss": 0.0, "accuracy": 0.0, "accuracy_top5": 0.0, "examples": 1}

    with (
        tempfile.TemporaryDirectory() as workdir,
        mock.patch.object(train, "evaluate", take_turns),
    ):
        train.train_and_evaluate(changes, workdir)
    bare, loop = zip(*pairs, strict=True)
    return *map(statistics.median, (bare, loop)), statistics.median(b / s for b, s in pairs)


def starts(changes: dict[str, Any]) -> list[float]:
    """Return the seconds of a start that compiles and of the next, and of their compilations."""
    changes = {**changes, "total_steps": 2, "log_every_steps": 1}
    found = []
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.json.py"
        text = f"json.loads({json.dumps(json.dumps(changes))})"
        config.write_text(
            f"import json\nimport ml_collections\n\n\ndef get_config():\n"
            f"    return ml_collections.ConfigDict({text})\n"
        )
        for number in range(2):
            command = [sys.executable, "-m", "aggnets_jax", "train", f"--config={config}"]
            began = time.perf_counter()
            with subprocess.Popen(
                [*command, f"--workdir={folder}/{number}"],
                env={**os.environ, VARIABLE: f"{folder}/programs"},
                stdout=subprocess.PIPE,
                text=True,
            ) as process:
                for line in process.stdout:
                    if compiled := re.match(r"step compiled in ([\d.]+) s", line):
                        compile_seconds = float(compiled[1])
                    if re.match(r"step +1/", line):
                        found += [time.perf_counter() - began, compile_seconds]
    return found


def main() -> None:
    """Measure all settings and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--data_dir", help="folder with the prepared cifar10")
    parser.add_argument("--steps", type=int, default=100, help="steps in a turn; default 100")
    given = parser.parse_args()
    made_with, rows = origin(), []
    for name, changes in settings(given.data_dir).items():
        start = starts(changes)
        bare, loop, ratio = speeds(changes, given.steps)
        values = [name, changes["model"]["name"], config_lib.resolve(changes).batch_size]
        values += [f"{1000 * bare:.1f}", f"{1000 * loop:.1f}", f"{ratio:.3f}"]
        values += [f"{seconds:.1f}" for seconds in start]
        row = dict(zip(COLUMNS, values, strict=False))
        rows.append({**row, **made_with})
        write_csv(Path(__file__).with_suffix(".csv"), rows, COLUMNS)
        print(row, flush=True)


if __name__ == "__main__":
    main()
