"""The one evaluation path: of a state in training, and of a checkpoint alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from aggnets_jax import checkpoint as checkpoint_lib
from aggnets_jax import config as config_lib
from aggnets_jax import data, sharding
from aggnets_jax.models import create_model
from aggnets_jax.step import Variables, cross_entropy

EvalStep = Callable[[Variables, data.Batch], dict[str, jax.Array]]


def make_eval_step(model: nn.Module, preprocess: data.Preprocess) -> EvalStep:
    """Makes the compiled function that sums loss and hits over the examples of a batch."""

    @jax.jit
    def eval_step(variables: Variables, batch: data.Batch) -> dict[str, jax.Array]:
        logits, _ = model.apply(variables, preprocess(batch, train=False), train=False)
        labels, mask = batch["label"], batch["mask"]
        losses = cross_entropy(logits, labels, smoothing=0.0)
        # A label is among the first five if fewer than five logits are larger.
        right = jnp.take_along_axis(logits, labels[:, None], axis=-1)
        rank = jnp.sum(logits > right, axis=-1)
        return {
            "loss": jnp.sum(jnp.where(mask, losses, 0)),
            "correct": jnp.sum(mask & (jnp.argmax(logits, axis=-1) == labels)),
            "correct_top5": jnp.sum(mask & (rank < 5)),
            "examples": jnp.sum(mask),
        }

    return eval_step


def evaluate(
    eval_step: EvalStep, variables: Variables, batches: data.EvalBatches
) -> dict[str, Any]:
    """Evaluates every example exactly once.

    Args:
      eval_step: from `make_eval_step`.
      variables: "params" and "batch_stats" of the network.
      batches: from `data.eval_batches`.

    Returns:
      `accuracy`, `accuracy_top5` (in 0..1), `loss` (mean cross entropy) and `examples`.
    """
    # Fetched after the last batch is dispatched, and summed in float64.
    sums = jax.device_get([eval_step(variables, batch) for batch in batches])
    total = {name: np.sum([s[name] for s in sums], dtype=np.float64) for name in sums[0]}
    examples = int(total["examples"])
    if examples != batches.num_examples:
        raise RuntimeError(f"evaluated {examples} of {batches.num_examples} examples")
    return {
        "accuracy": total["correct"] / examples,
        "accuracy_top5": total["correct_top5"] / examples,
        "loss": total["loss"] / examples,
        "examples": examples,
    }


def evaluate_checkpoint(
    workdir: str | Path, which: str = "latest", data_dir: str | None = None
) -> dict[str, Any]:
    """Evaluates a checkpoint, with nothing but its directory.

    Args:
      workdir: of the run.
      which: "latest", "best" or the number of a step.
      data_dir: of the data set; default that of the run.

    Returns:
      As `evaluate`, and the `step`.

    Raises:
      UserError: if there is no such checkpoint, or the data set is missing.
    """
    with checkpoint_lib.Checkpoints(workdir, read_only=True) as checkpoints:
        folder, step = checkpoints.find(which)
        config = config_lib.resolve(checkpoints.restore_config(folder, step))
        if data_dir is not None:
            config.data.data_dir = data_dir
        info = data.describe(config.data)
        mesh = sharding.make_mesh()
        sharding.check_divisible("eval_batch_size", config.eval_batch_size, mesh.size)
        model = create_model(
            config.model.name,
            info.num_classes,
            dtype=jnp.dtype(config.dtype),
            **config_lib.model_arguments(config),
        )
        variables = jax.eval_shape(
            lambda: model.init(jax.random.key(0), jnp.zeros((1, *info.image_shape)))
        )
        variables = {"params": variables["params"], "batch_stats": variables["batch_stats"]}
        restored = checkpoints.restore_model(
            folder,
            step,
            {**variables, "ema": variables if config.ema_decay else None},
            sharding.replicated(mesh),
        )
    batches = data.eval_batches(
        config.data, batch_size=config.eval_batch_size, sharding=sharding.by_example(mesh)
    )
    preprocess = data.make_preprocess(config.data, info, config.seed)
    variables = restored["ema"] or {k: restored[k] for k in ("params", "batch_stats")}
    metrics = evaluate(make_eval_step(model, preprocess), variables, batches)
    return {"step": step, **metrics}
