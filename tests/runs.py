"""A run of seconds, and other processes to run it in."""

import json
import os
import subprocess
import sys
from pathlib import Path

from aggnets_jax.data import DatasetInfo

ROOT = Path(__file__).parents[1]
# A data set without images.
DATASET = DatasetInfo(
    name="tiny",
    num_classes=2,
    class_names=("no", "yes"),
    image_shape=(8, 8, 1),
    num_train=100,
    num_eval=50,
    train_split="train",
    eval_split="test",
    mean=(0.5,),
    std=(0.5,),
    resident=True,
    resized=False,
)


def tiny_config(data_dir, **changes):
    """SparseNet-10 (k = 4) on the digits; epochs end at steps 45, 90, ..."""
    return {
        "total_steps": 12,
        "log_every_steps": 3,
        "eval_every_steps": 4,
        "checkpoint_every_steps": 5,
        "batch_size": 32,
        "eval_batch_size": 64,
        "steps_per_dispatch": 1,
        "lr": 0.05,
        "schedule": "constant",
        "model": {"name": "sparsenet10_k4", "args": {"dropout": 0.1}},
        "data": {
            "name": "aggnets_digits",
            "data_dir": data_dir,
            "crop_padding": 1,
            "flip": False,
        },
        **changes,
    }


def write_config(file, config):
    file.write_text(
        "import ml_collections\n\n\n"
        f"def get_config():\n    return ml_collections.ConfigDict({config!r})\n"
    )
    return file


def start(*arguments, devices=1, launcher=()):
    """Start `aggnets`, by default with "train", on some simulated devices."""
    subcommand = ("train",) if str(arguments[0]).startswith("-") else ()
    flags = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [*launcher, sys.executable, "-m", "aggnets_jax", *subcommand, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, timeout=300):
    """Wait, and return exit code, stdout and stderr."""
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def summary(workdir):
    return json.loads((Path(workdir) / "summary.json").read_text())


def metrics(workdir):
    return (Path(workdir) / "metrics.jsonl").read_text()


def metric_lines(workdir):
    return [json.loads(line) for line in metrics(workdir).splitlines()]
