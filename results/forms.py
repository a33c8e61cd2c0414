"""Compare learning curves of ways of computing a network: python results/forms.py.

A densely connected network learns the handwritten digits, with the recipe of configs/digits_50k.py,
in its plain form (each layer computes its own statistics, nothing is recomputed, no loops), and
with each field that changes how it is computed, three seeds of each. Writes losses and errors to
results/forms.csv and draws results/forms.png. A form agrees with the plain form if its mean lies in
the range of the plain form's seeds, widened by half of the range on both sides.
"""

import itertools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from aggnets_jax import config as config_lib
from aggnets_jax.runtime.compilation import enable_program_cache
from aggnets_jax.tables import write_csv
from aggnets_jax.train import train_and_evaluate
from aggnets_jax.workdir.provenance import origin

HERE = Path(__file__).parent
SEEDS = range(3)
STEPS, EVERY = 150, 15
PLAIN = {"model.shared_statistics": False, "model.remat": "none"}
FORMS: dict[str, dict[str, Any]] = {
    "plain": PLAIN,
    "shared statistics": {"model.remat": "none"},
    "remat=norm": {"model.remat": "norm"},
    "remat=layer": {"model.remat": "layer"},
    "scan": {"model.scan": True},
    "bfloat16": {"model.remat": "none", "dtype": "bfloat16"},
}
COLUMNS = ("form", "seed", "step", "loss", "error", "jax", "aggnets_jax", "commit", "hardware")


def train(form: str, seed: int, folder: str) -> Iterator[dict[str, Any]]:
    """Yield rows of a run: the mean loss up to a step, and at the end the error in percent."""
    overrides = {
        **FORMS[form],
        "seed": seed,
        "model.name": "densenet_bc22_k10",
        "model.args.stage_depths": (6, 2),
        "total_steps": STEPS,
        "log_every_steps": EVERY,
        "eval_every_steps": STEPS,
        "checkpoint_every_steps": STEPS,
    }
    file = config_lib.configs_folder() / "digits_50k.py"
    config = config_lib.load(f"{file}:densenet", [f"{k}={v}" for k, v in overrides.items()])
    workdir = Path(folder, f"{form}-{seed}".replace(" ", "_"))
    summary = train_and_evaluate(config, workdir)
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        if "train/loss" in record:
            row = {"form": form, "seed": seed, "step": record["step"]}
            row["loss"] = round(record["train/loss"], 5)
            if record["step"] == STEPS:
                row["error"] = round(100 * (1 - summary["final"]["accuracy"]), 2)
            yield row


def curves(rows: list[dict[str, Any]], form: str) -> np.ndarray:
    """Return losses [seeds, logged steps]."""
    of_form = [row for row in rows if row["form"] == form]
    return np.array([[row["loss"] for row in of_form if row["seed"] == seed] for seed in SEEDS])


def agrees(plain: np.ndarray, other: np.ndarray) -> bool:
    """Return whether the mean of a form lies in the range of the plain form at all steps."""
    low, high = plain.min(0), plain.max(0)
    slack = (high - low) / 2
    mean = other.mean(0)
    return bool(np.all((low - slack <= mean) & (mean <= high + slack)))


def draw(rows: list[dict[str, Any]]) -> None:
    """Return the means of all forms over the span of the plain form's seeds."""
    steps = np.arange(EVERY, STEPS + 1, EVERY)
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    plain = curves(rows, "plain")
    axes.fill_between(steps, plain.min(0), plain.max(0), color="0.85", label="plain, three seeds")
    styles = itertools.cycle(["-", "--", "-.", ":"])
    for form, style in zip(FORMS, styles, strict=False):
        axes.plot(steps, curves(rows, form).mean(0), style, label=form)
    axes.set(xlabel="step", ylabel="training loss", yscale="log")
    axes.legend(fontsize="small")
    figure.savefig(HERE / "forms.png", dpi=120)


def main() -> None:
    """Train, write the table, and draw."""
    enable_program_cache()
    made_with, rows = origin(), []
    with tempfile.TemporaryDirectory() as folder:
        for form, seed in itertools.product(FORMS, SEEDS):
            rows += [{**row, **made_with} for row in train(form, seed, folder)]
            write_csv(HERE / "forms.csv", rows, COLUMNS)
    draw(rows)
    for form in FORMS:
        errors = [row["error"] for row in rows if row["form"] == form and "error" in row]
        word = "agrees" if agrees(curves(rows, "plain"), curves(rows, form)) else "DIFFERS"
        print(f"{form}: {word}; error {np.mean(errors):.2f} % (seeds: {errors})")


if __name__ == "__main__":
    main()
