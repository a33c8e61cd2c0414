"""What a run writes about itself.

A workdir gets `metrics.jsonl`, one line for each step at which metrics were logged, with what
follows from config and step alone; `timing.jsonl`, with what does not; and both for TensorBoard.
"""

from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np

from aggnets_jax.errors import Diverged
from aggnets_jax.training.state import Totals, seeds


def training_metrics(totals: Totals, config: ml_collections.ConfigDict) -> dict[str, float]:
    """Means over the finite steps; with several seeds also over these, and then those of each.

    Raises:
      Diverged: if there are none, or their sum is infinite.
    """
    totals = jax.device_get(totals)
    steps = totals.steps - totals.nonfinite_steps
    if not np.all(steps) or not np.all(np.isfinite(totals.loss)):
        raise Diverged("the losses since the last line of the log have no finite mean")
    images = steps * np.float64(config.batch_size) - totals.skipped
    means = {
        "train/loss": np.float64(totals.loss) / steps,
        "train/accuracy": totals.correct / np.maximum(images, 1),
    }
    if config.skip_nonfinite_steps:
        means["train/skipped_steps"] = totals.nonfinite_steps
    if config.data.damaged == "skip":
        means["train/skipped_images"] = totals.skipped
    return _with_seeds(means, config)


def evaluation_metrics(
    metrics: Mapping[str, Any], config: ml_collections.ConfigDict
) -> dict[str, float]:
    """The scalars of an evaluation, from what `evaluate` returns."""
    each = metrics.get("seeds", [metrics])
    values = {
        f"eval/{name}": np.array([of_one[name] for of_one in each])
        for name in ("loss", "accuracy", "accuracy_top5")
    }
    if "skipped" in metrics:
        values["eval/skipped_images"] = np.full(len(each), metrics["skipped"])
    return _with_seeds(values, config)


def _with_seeds(
    values: Mapping[str, np.ndarray], config: ml_collections.ConfigDict
) -> dict[str, float]:
    """Means over the seeds, and with several seeds the value of each as "NAME/seedN"."""
    scalars = {name: float(np.mean(value)) for name, value in values.items()}
    if config.num_seeds > 1:
        for name, value in values.items():
            for seed, of_one in zip(seeds(config), value, strict=True):
                scalars[f"{name}/seed{seed}"] = float(of_one)
    return scalars
