"""Scalars for the log of a run, from sums over steps and from evaluations."""

from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np

from aggnets_jax.errors import Diverged
from aggnets_jax.training.state import Totals, seeds
from aggnets_jax.training.task import Task


def training_metrics(
    task: Task, totals: Totals, config: ml_collections.ConfigDict
) -> dict[str, float]:
    """Return means over the finite steps; of several seeds, the mean over them and each one's.

    Raises:
      Diverged: if no step is finite, or the sum of the losses is infinite.
    """
    totals = jax.device_get(totals)
    steps = totals["steps"] - totals["nonfinite_steps"]
    if not np.all(steps):
        raise Diverged(
            "no step since the last line of the log had a finite loss and gradient"
            f" ({int(np.max(totals['steps']))} were skipped)"
        )
    if not np.all(np.isfinite(totals["loss"])):
        raise Diverged("the sum of the losses since the last line of the log is infinite")
    means = {
        "loss": np.float64(totals["loss"]) / steps,
        **task.train_metrics(totals, steps, config.batch_size),
    }
    if config.skip_nonfinite_steps:
        means["skipped_steps"] = totals["nonfinite_steps"]
    if config.data.damaged == "skip":
        means["skipped_images"] = totals["skipped"]
    return _with_seeds("train", means, config)


def evaluation_metrics(
    task: Task, metrics: Mapping[str, Any], config: ml_collections.ConfigDict
) -> dict[str, float]:
    """Return the scalars of an evaluation, from the result of `evaluate`."""
    each_seed = metrics.get("seeds", [metrics])
    values = {name: np.array([found[name] for found in each_seed]) for name in task.logged}
    if "skipped" in metrics:
        values["skipped_images"] = np.full(len(each_seed), metrics["skipped"])
    return _with_seeds("eval", values, config)


def _with_seeds(
    prefix: str, values: Mapping[str, np.ndarray], config: ml_collections.ConfigDict
) -> dict[str, float]:
    """Return means over the seeds, and with several seeds the value of each as "NAME/seedN"."""
    scalars = {f"{prefix}/{name}": float(np.mean(value)) for name, value in values.items()}
    if config.num_seeds > 1:
        for name, value in values.items():
            for seed, at_seed in zip(seeds(config), value, strict=True):
                scalars[f"{prefix}/{name}/seed{seed}"] = float(at_seed)
    return scalars
