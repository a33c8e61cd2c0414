"""The one evaluation path: of a state in training, and of a checkpoint alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from aggnets_jax import config as config_lib
from aggnets_jax import data, sharding
from aggnets_jax.checkpoint import Checkpoints
from aggnets_jax.models import create_model
from aggnets_jax.step import Variables, cross_entropy
from aggnets_jax.workdir import write_json

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
    total = {n: float(np.sum([s[n] for s in sums], dtype=np.float64)) for n in sums[0]}
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
    """Evaluates a checkpoint, with nothing but its directory, and prints the result.

    Args:
      workdir: of the run; gets `evaluation.json` if it can be written.
      which: "latest", "best" or the number of a step.
      data_dir: of the data set; default that of the run.

    Returns:
      As `evaluate`, and the `step`.

    Raises:
      UserError: if there is no such checkpoint, or the data set is missing.
    """
    mesh = sharding.make_mesh()
    with Checkpoints(workdir, read_only=True) as checkpoints:
        folder, step = checkpoints.find(which)
        config = config_lib.resolve(checkpoints.restore_config(folder, step))
        if data_dir is not None:
            config.data.data_dir = data_dir
        sharding.check_divisible("eval_batch_size", config.eval_batch_size, mesh.size)
        info = data.describe(config.data)
        model = create_model(
            config.model.name,
            info.num_classes,
            dtype=jnp.dtype(config.dtype),
            **config_lib.model_arguments(config),
        )
        variables = checkpoints.restore_variables(
            folder,
            step,
            jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *info.image_shape))),
            sharding.replicated(mesh),
            averaged=config.ema_decay > 0,
        )
    batches = data.eval_batches(
        config.data, batch_size=config.eval_batch_size, sharding=sharding.by_example(mesh)
    )
    eval_step = make_eval_step(model, data.make_preprocess(config.data, info, config.seed))
    metrics = {"step": step, **evaluate(eval_step, variables, batches)}
    print_evaluation(metrics)
    try:
        write_json(Path(workdir) / "evaluation.json", metrics)
    except OSError as error:
        print(f"not written to {workdir}: {error.strerror}", flush=True)
    return metrics


def print_evaluation(metrics: dict[str, Any]) -> None:
    """Prints the result of an evaluation and its step in a line."""
    print(
        f"step {metrics['step']}  evaluation: loss {metrics['loss']:.4f}"
        f"  accuracy {metrics['accuracy']:.2%} of {metrics['examples']} images",
        flush=True,
    )
