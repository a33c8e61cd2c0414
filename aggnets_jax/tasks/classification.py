"""Classification of images: cross entropy, accuracy and top-5 accuracy."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from aggnets_jax import data
from aggnets_jax.errors import UserError
from aggnets_jax.training.distillation import Outputs, make_distillation
from aggnets_jax.training.losses import (
    cross_entropy,
    make_loss,
    smooth_targets,
    training_losses,
)
from aggnets_jax.training.state import Variables
from aggnets_jax.training.task import Config, Evaluation, Task


class Examples(NamedTuple):
    """Examples of a training step.

    Attributes:
      images: float32 [batch, height, width, channels], augmented and normalised.
      targets: labels, int32 [batch], or probabilities, float32 [batch, classes].
      labels: int32 [batch]; -1 for a damaged image.
      taught: outputs of the teacher, or None without one.
    """

    images: jax.Array
    targets: jax.Array
    labels: jax.Array
    taught: Outputs | None = None


class Classification(Task):
    """Classification of images into one of several classes."""

    sums: ClassVar = {"correct": jnp.int32, "skipped": jnp.int32}
    logged = ("loss", "accuracy", "accuracy_top5")
    shown: ClassVar = {"loss": ".4f", "accuracy": ".2%"}
    best = "accuracy"

    def train_data(self, config: Config, **arguments: Any) -> data.ResidentData | data.StreamedData:
        """Open the training split."""
        return data.train_data(config.data, batch_size=config.batch_size, **arguments)

    def eval_data(self, config: Config, sharding: NamedSharding) -> data.EvalBatches:
        """Open the evaluation split."""
        return data.eval_batches(config.data, batch_size=config.eval_batch_size, sharding=sharding)

    def make_prepare(
        self, model: Any, preprocess: data.Preprocess, config: Config
    ) -> Callable[[data.Batch, jax.Array], Examples]:
        """Augment and mix images, smooth and mix targets."""
        mix = data.make_mix(config.data)
        skip = config.data.damaged == "skip"

        def prepare(batch: data.Batch, seed: jax.Array) -> Examples:
            images = preprocess(batch, train=True, seed=seed)
            targets = labels = batch["label"]
            if mix or config.label_smoothing or skip:
                targets = smooth_targets(
                    labels, model.num_classes, config.label_smoothing, config.label_smoothing_over
                )
            if skip:  # an image without a label has no target, and no loss
                targets *= (labels >= 0)[:, None]
            if mix:
                images, targets = mix(images, targets, batch, seed)
            teacher = batch.get("teacher")
            taught = teacher.outputs(images, batch["index"]) if teacher else None  # type: ignore[attr-defined]
            return Examples(images, targets, labels, taught)

        return prepare

    def make_loss(self, model: Any, config: Config) -> Callable[..., Any]:
        """Make the mean of the images' losses, with the numbers of correct and skipped images.

        The loss is the cross entropy, unless config or network name another. Auxiliary classifiers
        add theirs, and a teacher its part, see `training.distillation`.
        """
        distillation = make_distillation(config)
        skip = config.data.damaged == "skip"
        loss = make_loss(config, model, "cross_entropy")

        def loss_fn(
            params: Any, batch_stats: Any, examples: Examples, fixed: Variables, key: jax.Array
        ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
            (logits, endpoints), updated = model.apply(
                {"params": params, "batch_stats": batch_stats, **fixed},
                examples.images,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": key},
            )
            losses = training_losses(loss, logits, endpoints, examples.targets)
            if skip:  # a binary loss is not 0 for an image without targets
                losses = jnp.where(examples.targets.sum(-1) > 0, losses, 0)
            if distillation:
                if examples.taught is None:
                    raise UserError("config.teacher is for training alone: set config.teacher=None")
                outputs = {**endpoints, "logits": logits}
                counted = examples.labels >= 0
                losses = distillation.losses(losses, outputs, examples.taught, counted)
            hits = jnp.argmax(logits, axis=-1) == examples.labels
            sums = {
                "correct": jnp.sum(hits, dtype=jnp.int32),
                "skipped": jnp.sum(examples.labels < 0, dtype=jnp.int32) if skip else jnp.int32(0),
            }
            return losses.mean(), (updated.get("batch_stats", {}), sums)

        return loss_fn

    def train_metrics(
        self, totals: Mapping[str, np.ndarray], finite_steps: np.ndarray, batch_size: int
    ) -> dict[str, np.ndarray]:
        """Return the accuracy on augmented images, in 0..1."""
        images = finite_steps * np.float64(batch_size) - totals["skipped"]
        return {"accuracy": totals["correct"] / np.maximum(images, 1)}

    def make_eval_step(
        self, model: Any, preprocess: data.Preprocess
    ) -> Callable[[Variables, data.Batch], dict[str, jax.Array]]:
        """Make the function of variables and batch to sums of scores."""

        def eval_step(variables: Variables, batch: data.Batch) -> dict[str, jax.Array]:
            logits, _ = model.apply(variables, preprocess(batch, train=False), train=False)
            return {
                **{name: jnp.sum(values) for name, values in score(logits, batch).items()},
                "examples": jnp.sum(batch["mask"]),
                "skipped": jnp.sum(batch["label"] < 0),
            }

        return eval_step

    def gather(
        self, gathered: dict[str, np.ndarray] | None, outputs: Mapping[str, jax.Array]
    ) -> dict[str, np.ndarray]:
        """Add up sums in float64."""
        sums = {name: np.asarray(value, np.float64) for name, value in outputs.items()}
        return {name: value + (gathered[name] if gathered else 0) for name, value in sums.items()}

    def finish(self, gathered: Mapping[str, np.ndarray]) -> Evaluation:
        """Return mean loss, accuracy and top-5 accuracy, in 0..1."""
        examples, skipped = (int(np.ravel(gathered[name])[0]) for name in ("examples", "skipped"))
        if not examples:
            raise UserError(f"all {skipped} images of the evaluation are damaged")
        metrics = {
            "accuracy": gathered["correct"] / examples,
            "accuracy_top5": gathered["correct_top5"] / examples,
            "loss": gathered["loss"] / examples,
        }
        return Evaluation(metrics, examples, skipped)


def score(logits: jax.Array, batch: data.Batch) -> dict[str, jax.Array]:
    """Score each example of a batch; all scores of a padded or skipped example are 0.

    Args:
      logits: float [B, classes].
      batch: "label" int32 [B] and "mask" bool [B], as in `data.EvalBatches`, and "labels" int32
        [B, L] if an image may have several.

    Returns:
      Arrays [B]: `loss`, float, the cross entropy; `correct` and `correct_top5`, bool. With several
      labels, the loss is minus the logarithm of the sum of their probabilities, and a prediction is
      correct if it is any of them.
    """
    labels, mask = batch["label"], batch["mask"]
    _, top5 = jax.lax.top_k(logits, min(5, logits.shape[-1]))
    if "labels" in batch:
        right = jnp.any(batch["labels"][..., None] == jnp.arange(logits.shape[-1]), axis=-2)
        losses = -jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=-1, where=right)
        hits = jnp.take_along_axis(right, top5, axis=-1)
        correct, correct_top5 = hits[:, 0], jnp.any(hits, axis=-1)
    else:
        losses = cross_entropy(logits, labels)
        correct = jnp.argmax(logits, axis=-1) == labels
        correct_top5 = jnp.any(top5 == labels[:, None], axis=-1)
    return {
        "loss": jnp.where(mask, losses, 0),
        "correct": mask & correct,
        "correct_top5": mask & correct_top5,
    }
