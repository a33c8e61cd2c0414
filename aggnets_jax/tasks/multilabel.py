"""Classification of images into any number of classes each: the classes of an image's objects."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.typing import DTypeLike

from aggnets_jax import data
from aggnets_jax.arguments import check_whole_number
from aggnets_jax.data import objects as object_data
from aggnets_jax.detection import CONVENTIONS
from aggnets_jax.errors import UserError, unknown
from aggnets_jax.runtime.distributed import to_host
from aggnets_jax.tasks.detection import MOST_OBJECTS
from aggnets_jax.tasks.padded_images import check_fields, preprocess_padded
from aggnets_jax.training.losses import make_loss, training_losses
from aggnets_jax.training.state import Variables
from aggnets_jax.training.task import Config, Evaluation, Task

_LOSSES = ("binary_cross_entropy", "binary_focal")
_COUNTS = ("right", "found", "present", "skipped")


class Examples(NamedTuple):
    """Examples of a training step.

    Attributes:
      images: float32 [batch, height, width, 3].
      targets: 1 for each class of an image, and else 0; float32 [batch, classes].
      whole: whether the image could be read; bool [batch].
    """

    images: jax.Array
    targets: jax.Array
    whole: jax.Array


class Gathered(NamedTuple):
    """The outputs of an evaluation so far.

    Attributes:
      data: the split, the ground truth.
      logits: logits of each image, by its place in the split, float64 [classes].
      skipped: places of skipped images.
    """

    data: object_data.Annotated
    logits: dict[int, np.ndarray]
    skipped: set[int]


class MultiLabel(Task):
    """Classification by binary losses, on data sets in COCO's format, whose boxes are not used.

    Args:
      size: side in pixels of a square into which images are resized without distortion; the rest
        of the square is 0.
      least_side: images with a shorter side in the file are not trained on.
    """

    sums: ClassVar = dict.fromkeys(_COUNTS, jnp.int32)
    logged = ("mAP", "F1", "F1_of_classes", "loss")
    shown: ClassVar = {"loss": ".4f", "mAP": ".3f", "F1": ".3f"}
    best = "mAP"

    def __init__(self, *, size: int = 448, least_side: int = 32) -> None:
        check_whole_number("size", size, 1)
        check_whole_number("least_side", least_side, 1)
        square = (size, size)
        self.form = object_data.Form(
            CONVENTIONS["center"], size, size, 1, (square,), masks=False, mask_side=None
        )
        self._chosen = {"empty": True, "least_side": least_side}

    def describe(self, config: Config) -> data.DatasetInfo:
        """Describe the data set of a config."""
        apart = ("loss", "loss_args", "model.scan")
        check_fields(config, "the task 'multilabel'", apart)
        return object_data.describe_objects(config.data, self.form, **self._chosen)

    def batch_shapes(
        self, image_shape: tuple[int, int, int], *, train: bool
    ) -> dict[str, tuple[tuple[int, ...], DTypeLike]]:
        """Return shape and dtype of an example's arrays in a batch with 100 objects an image."""
        found = {"image": (image_shape, jnp.uint8), "size": ((2,), jnp.int32)}
        if not train:
            return {**found, "index": ((), jnp.int32), "mask": ((), jnp.bool_)}
        return {**found, "label": ((MOST_OBJECTS,), jnp.int32), "valid": ((MOST_OBJECTS,), bool)}

    def train_data(self, config: Config, **arguments: Any) -> data.StreamedData:
        """Open the training split."""
        split = object_data.read_split(config.data, self.form, train=True)
        images = object_data.TrainedImages(split, self.form, **self._chosen)
        return object_data.train_data(config, images, self.form, **arguments)

    def eval_data(self, config: Config, sharding: NamedSharding) -> object_data.EvaluatedImages:
        """Open the evaluation split."""
        return object_data.EvaluatedImages(
            object_data.read_split(config.data, self.form, train=False),
            self.form,
            batch_size=config.eval_batch_size,
            skip=config.data.damaged == "skip",
            sharding=sharding,
            bucketed=True,
        )

    def make_preprocess(self, config: Config, info: data.DatasetInfo) -> data.Preprocess:
        """Normalise the images; their padding is 0 afterwards."""
        return preprocess_padded(info)

    def make_prepare(
        self, model: Any, preprocess: data.Preprocess, config: Config
    ) -> Callable[[data.Batch, jax.Array], Examples]:
        """Normalise images, and collect the classes of their objects."""

        def prepare(batch: data.Batch, seed: jax.Array) -> Examples:
            classes = jax.nn.one_hot(batch["label"], model.num_classes)
            targets = jnp.max(classes * batch["valid"][..., None], axis=1)
            images = preprocess(batch, train=True, seed=seed)
            return Examples(images, targets, batch["size"].min(axis=1) > 0)

        return prepare

    def make_loss(self, model: Any, config: Config) -> Callable[..., Any]:
        """Make the mean of a binary loss, with the numbers of classes right, found and present.

        A class is found if its probability is above one half; it is right if it also is present.

        Raises:
          UserError: if the config names another loss.
        """
        if config.loss not in (None, *_LOSSES):
            raise unknown("loss of the task 'multilabel'", config.loss, _LOSSES)
        loss = make_loss(config, None, "binary_cross_entropy")

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
            whole, present = examples.whole[:, None], examples.targets > 0
            found = whole & (logits > 0)
            counted = (found & present, found, present, ~examples.whole)
            sums = [jnp.sum(each, dtype=jnp.int32) for each in counted]
            mean = jnp.where(examples.whole, losses, 0).mean()
            return mean, (updated.get("batch_stats", {}), dict(zip(_COUNTS, sums, strict=True)))

        return loss_fn

    def train_metrics(
        self, totals: Mapping[str, np.ndarray], finite_steps: np.ndarray, batch_size: int
    ) -> dict[str, np.ndarray]:
        """Return F1 over all classes together, in 0..1."""
        pairs = totals["found"] + totals["present"]
        return {"F1": 2 * totals["right"] / np.maximum(pairs, 1)}

    def make_eval_step(
        self, model: Any, preprocess: data.Preprocess
    ) -> Callable[[Variables, data.Batch], dict[str, jax.Array]]:
        """Make the function of variables and batch to logits, with the images' places."""

        def eval_step(variables: Variables, batch: data.Batch) -> dict[str, jax.Array]:
            logits, _ = model.apply(variables, preprocess(batch, train=False), train=False)
            return {"logits": logits, **{name: batch[name] for name in ("index", "mask", "size")}}

        return eval_step

    def start_gathering(self, batches: object_data.EvaluatedImages) -> Gathered:
        """Return the ground truth, and nothing found."""
        return Gathered(batches.data, {}, set())

    def gather(self, gathered: Gathered, outputs: Mapping[str, jax.Array]) -> Gathered:
        """Add the logits of a batch."""
        host = {name: to_host(value) for name, value in outputs.items()}
        for row in np.flatnonzero(host["mask"]).tolist():
            index = int(host["index"][row])
            if host["size"][row].min() == 0:
                gathered.skipped.add(index)
            else:
                gathered.logits[index] = host["logits"][row].astype(np.float64)
        return gathered

    def finish(self, gathered: Gathered) -> Evaluation:
        """Return the metrics of `multilabel_metrics`.

        Raises:
          UserError: if all images are damaged.
        """
        logits, skipped = gathered.logits, gathered.skipped
        if not logits:
            raise UserError(f"all {len(skipped)} images of the evaluation are damaged")
        ids = list(gathered.data.categories)
        targets = np.zeros((len(logits), len(ids)), bool)
        for row, index in enumerate(sorted(logits)):
            for each in gathered.data.trained(index):
                targets[row, ids.index(each["category_id"])] = True
        found = np.stack([logits[index] for index in sorted(logits)])
        return Evaluation(multilabel_metrics(found, targets), len(logits), len(skipped))


def multilabel_metrics(logits: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
    """Return metrics of several classes for each image.

    Args:
      logits: float64 [images, classes].
      targets: whether an image has a class, bool [images, classes].

    Returns:
      `mAP`, the mean over classes of the average precision, which is the sum over the rises of
      recall of the rise times the precision there; `F1` of all pairs of image and class together,
      for probabilities above one half; `F1_of_classes`, the mean over classes of their F1; `loss`,
      the mean binary cross entropy. The means over classes leave out classes without an image, and
      are 0 if there is no other. All are float64 []; NaN if a logit is not finite.
    """
    from sklearn.metrics import average_precision_score

    if not np.isfinite(logits).all():
        return dict.fromkeys(("mAP", "F1", "F1_of_classes", "loss"), np.float64(np.nan))
    found, present = logits > 0, targets.any(axis=0)
    # scikit-learn's F1 takes a single class for two, the images with it and those without.
    hits, pairs = (found & targets).sum(axis=0), found.sum(axis=0) + targets.sum(axis=0)
    metrics = {"mAP": 0.0, "F1": 2 * hits.sum() / max(pairs.sum(), 1), "F1_of_classes": 0.0}
    if present.any():
        metrics["mAP"] = average_precision_score(targets[:, present], logits[:, present])
        metrics["F1_of_classes"] = np.mean(2 * hits[present] / pairs[present])
    metrics["loss"] = np.logaddexp(0, np.where(targets, -logits, logits)).mean()
    return {name: np.float64(x) for name, x in metrics.items()}
