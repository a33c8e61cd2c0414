"""Detection of objects, with or without their masks: Faster and Mask R-CNN on any backbone.

`config.model` is the backbone, a network as for classification; `config.task_args` has the rest.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.typing import DTypeLike

from aggnets_jax import config as config_lib
from aggnets_jax import data
from aggnets_jax.arguments import check_whole_number, choose
from aggnets_jax.data import objects as object_data
from aggnets_jax.data.objects.segmentations import mask_coding
from aggnets_jax.detection import CONVENTIONS, Detector, create_detector
from aggnets_jax.detection.coco import FIGURES, coco_figures
from aggnets_jax.detection.operations import count_detector
from aggnets_jax.detection.registry import KINDS
from aggnets_jax.detection.results import Found, coco_results
from aggnets_jax.detection.sampling import image_keys
from aggnets_jax.detection.training import Objects
from aggnets_jax.detection.voc import voc_figures
from aggnets_jax.errors import UserError
from aggnets_jax.models import Count
from aggnets_jax.runtime.compilation import backend
from aggnets_jax.runtime.distributed import to_host
from aggnets_jax.tasks.padded_images import check_fields, preprocess_padded
from aggnets_jax.training.state import Variables, model_key
from aggnets_jax.training.task import Config, Evaluation, Task

# No image of COCO has more.
MOST_OBJECTS = 100

# Arguments of detectors that other fields of a config give.
_ELSEWHERE = {
    "backbone": "config.model.name",
    "backbone_args": "config.model.args",
    "conventions": "config.task_args.conventions",
    "cropped_masks": "config.task_args.mask_side",
    "dtype": "config.dtype",
    "num_classes": "another data set",
}


class Examples(NamedTuple):
    """Examples of a training step.

    Attributes:
      images: float32 [batch, height, width, 3], normalised, and 0 in the padding.
      sizes: (height, width) of each image without padding, int32 [batch, 2]; 0 for a skipped image.
      objects: the objects of the images.
      keys: data of the images' random keys, for the samples of the losses, uint32 [batch, 2].
    """

    images: jax.Array
    sizes: jax.Array
    objects: Objects
    keys: jax.Array


class Gathered(NamedTuple):
    """The detections of an evaluation so far.

    Attributes:
      data: the split, the ground truth.
      found: detections of each image, by its place in the split, in COCO's format.
      skipped: places of skipped images.
      cut: number of boxes of each batch that were left out before NMS, see `Detections`.
      finite: whether the network's outputs for each batch are finite.
    """

    data: object_data.Annotated
    found: dict[int, list[dict[str, Any]]]
    skipped: set[int]
    cut: list[int]
    finite: list[bool]


class Detection(Task):
    """Detection, trained and evaluated as in the papers of Faster and Mask R-CNN.

    Args:
      detector: "mask_rcnn_fpn", or "faster_rcnn_fpn" without masks.
      conventions: a name in `CONVENTIONS`.
      long: most pixels of an image's longer side.
      short: most pixels of its shorter side; images are resized to the largest size that both
        allow.
      divisor: images are padded to multiples of it.
      buckets: padded sizes (height, width) of training; each costs a compilation. None: two sizes,
        for the largest images in landscape and in portrait format.
      bucketed_eval: whether evaluations use these sizes, too. They then need fewer programs, but
        padding changes results a little. Otherwise each image is padded as little as possible.
      mask_side: side in pixels of the masks of objects, which are cropped to their boxes; None:
        masks of the whole image, which are exact, but large.
      voc: whether an evaluation also has VOC's mAP of 2007, as "voc_mAP".
      keep_empty: whether images without objects are trained on, too.
      least_side: images with a shorter side in the file are not trained on.
      detector_args: further arguments of `create_detector`.
    """

    best = "bbox_AP"

    def __init__(
        self,
        *,
        detector: str = "mask_rcnn_fpn",
        conventions: str = "legacy",
        long: int = 1333,
        short: int = 800,
        divisor: int = 32,
        buckets: Sequence[Sequence[int]] | None = None,
        bucketed_eval: bool = False,
        mask_side: int | None = 112,
        voc: bool = False,
        keep_empty: bool = False,
        least_side: int = 32,
        detector_args: Mapping[str, Any] | None = None,
    ) -> None:
        masks = choose("detector", KINDS, detector)
        for name, value in (("long", long), ("short", short), ("divisor", divisor)):
            check_whole_number(name, value, 1)
        if mask_side is not None:
            check_whole_number("mask_side", mask_side, 1)
        self.detector = detector
        self.form = object_data.Form(
            choose("conventions", CONVENTIONS, conventions),
            long,
            short,
            divisor,
            _checked_buckets(buckets, divisor),
            masks,
            mask_side,
        )
        self.kinds = ("bbox", "segm") if masks else ("bbox",)  # type: ignore[truthy-function]
        self.voc = voc
        self.bucketed_eval = bucketed_eval
        self._chosen = {"empty": keep_empty, "least_side": least_side}
        self._arguments = dict(detector_args or {})
        for argument in self._arguments:
            if argument in _ELSEWHERE:
                raise UserError(
                    f"config.task_args.detector_args has no {argument}: set {_ELSEWHERE[argument]}"
                )
        parts = ["rpn_class", "rpn_box", "class", "box", *(["mask"] if masks else [])]  # type: ignore[truthy-function]
        self.sums = {**dict.fromkeys(parts, jnp.float32), "skipped": jnp.int32}
        figures = [f"{kind}_{figure}" for kind in self.kinds for figure in FIGURES]
        shown = [f"{kind}_AP" for kind in self.kinds] + ["voc_mAP"] * voc
        self.logged = (*figures, *["voc_mAP"] * voc)
        self.shown = {"loss": ".4f", **dict.fromkeys(shown, ".3f")}

    def describe(self, config: Config) -> data.DatasetInfo:
        """Describe the data set of a config."""
        check_fields(config, "detection")
        mask_coding()  # pycocotools is needed at the first evaluation
        return object_data.describe_objects(config.data, self.form, **self._chosen)

    def describe_known(self, config: Config) -> data.DatasetInfo:
        """Describe a data set without opening it; images have the first size of training."""
        check_fields(config, "detection")
        image_shape = (*self.form.training_sizes[0], 3)
        return dataclasses.replace(super().describe_known(config), image_shape=image_shape)

    def batch_shapes(
        self, image_shape: tuple[int, int, int], *, train: bool
    ) -> dict[str, tuple[tuple[int, ...], DTypeLike]]:
        """Return shape and dtype of an example's arrays in a batch with 100 objects an image."""
        found = {"image": (image_shape, jnp.uint8), "size": ((2,), jnp.int32)}
        if not train:
            facts = {"original": ((2,), jnp.int32), "factors": ((2,), jnp.float32)}
            return {**found, **facts, "index": ((), jnp.int32), "mask": ((), jnp.bool_)}
        objects = {"boxes": ((4,), jnp.float32), "label": ((), jnp.int32), "valid": ((), bool)}
        if self.form.masks:
            objects["masks"] = (self.form.mask_shape(image_shape[:2]), jnp.uint8)
        padded = {name: ((MOST_OBJECTS, *shape), dtype) for name, (shape, dtype) in objects.items()}
        return {**found, **padded, "step": ((), jnp.int32)}

    def train_data(self, config: Config, **arguments: Any) -> data.StreamedData:
        """Open the training split."""
        split = object_data.read_split(config.data, self.form, train=True)
        images = object_data.TrainedImages(split, self.form, **self._chosen)
        return object_data.train_data(config, images, self.form, **arguments)

    def eval_data(self, config: Config, sharding: NamedSharding) -> object_data.EvaluatedImages:
        """Open the evaluation split."""
        batches = object_data.EvaluatedImages(
            object_data.read_split(config.data, self.form, train=False),
            self.form,
            batch_size=config.eval_batch_size,
            skip=config.data.damaged == "skip",
            sharding=sharding,
            bucketed=self.bucketed_eval,
        )
        if len(batches.sizes) > 1:
            print(f"evaluations compile a program for each of {len(batches.sizes)} padded sizes")
        return batches

    def make_preprocess(self, config: Config, info: data.DatasetInfo) -> data.Preprocess:
        """Normalise the images; their padding is 0 afterwards."""
        return preprocess_padded(info)

    def make_network(self, config: Config, num_classes: int) -> Detector:
        """Make the detector on the network of a config."""
        # The gradient of "gather" is a scatter. Only a CPU computes it fast, and always in the same
        # order.
        on_cpu = backend() == "cpu"
        arguments = {"roi_method": "gather" if on_cpu else "matrices", **self._arguments}
        return create_detector(
            self.detector,
            config.model.name,
            num_classes,
            conventions=self.form.conventions.name,
            backbone_args=config_lib.model_arguments(config),
            dtype=jnp.dtype(config.dtype),
            cropped_masks=self.form.mask_side is not None,
            **arguments,
        )

    def count(self, network: Detector, image_shape: Sequence[int]) -> dict[str, Count]:
        """Return the costs of each part of the detector, with 1000 RoIs and 100 masks."""
        return count_detector(network, image_shape[:2])[-1]

    def lr_factors(self, model: Detector, config: Config) -> Sequence[Any]:
        """Return 0 for the frozen parameters of the backbone, then the config's factors."""
        paths = sorted("/".join(path) for path in model.backbone.frozen_paths)
        frozen = f"backbone/(?:{'|'.join(map(re.escape, paths))})"
        return (*[(frozen, 0.0)] * bool(paths), *config.lr_factors)

    def make_prepare(
        self, model: Detector, preprocess: data.Preprocess, config: Config
    ) -> Callable[[data.Batch, jax.Array], Examples]:
        """Normalise images, and draw the keys of their samples by seed, step and place."""

        def prepare(batch: data.Batch, seed: jax.Array) -> Examples:
            images = preprocess(batch, train=True, seed=seed)
            keys = image_keys(model_key(seed), batch["step"][0], jnp.arange(len(images)))
            objects = Objects(batch["boxes"], batch["label"], batch["valid"], batch.get("masks"))
            return Examples(images, batch["size"], objects, jax.random.key_data(keys))

        return prepare

    def make_loss(self, model: Detector, config: Config) -> Callable[..., Any]:
        """Make the sum of the detector's losses."""

        def loss_fn(
            params: Any, batch_stats: Any, examples: Examples, fixed: Variables, key: jax.Array
        ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
            parts, updated = model.apply(
                {"params": params, "batch_stats": batch_stats, **fixed},
                examples.images,
                examples.sizes,
                examples.objects,
                jax.random.wrap_key_data(examples.keys, impl="threefry2x32"),
                method="losses",
                mutable=["batch_stats"],
                rngs={"dropout": key},
            )
            number = len(examples.images)  # the examples may be a part of the batch
            sums = {name: number * value for name, value in parts.items()}
            sums["skipped"] = jnp.sum(examples.sizes.min(axis=1) == 0, dtype=jnp.int32)
            return sum(parts.values()), (updated.get("batch_stats", {}), sums)

        return loss_fn

    def train_metrics(
        self, totals: Mapping[str, np.ndarray], finite_steps: np.ndarray, batch_size: int
    ) -> dict[str, np.ndarray]:
        """Return the parts of the loss."""
        images = finite_steps * np.float64(batch_size)
        return {name: totals[name] / images for name in self.sums if name != "skipped"}

    def make_eval_step(
        self, model: Detector, preprocess: data.Preprocess
    ) -> Callable[[Variables, data.Batch], dict[str, Any]]:
        """Make the function of variables and batch to detections, with the data to read them."""

        def eval_step(variables: Variables, batch: data.Batch) -> dict[str, Any]:
            images = preprocess(batch, train=False)
            (detections, masks), noted = model.apply(
                variables, images, batch["size"], mutable=["finite"]
            )
            facts = {name: batch[name] for name in ("index", "mask", "original", "factors")}
            (finite,) = noted["finite"]["outputs"]
            return {**facts, **detections._asdict(), "masks": masks, "finite": finite}

        return eval_step

    def start_gathering(self, batches: object_data.EvaluatedImages) -> Gathered:
        """Return the ground truth, and nothing found."""
        return Gathered(batches.data, {}, set(), [], [])

    def gather(self, gathered: Gathered, outputs: Mapping[str, Any]) -> Gathered:
        """Add the detections of a batch, in COCO's format."""
        ids = tuple(gathered.data.categories)
        for index, found in self.read(outputs).items():
            image = gathered.data.images[index]["id"]
            if min(found.size) == 0:
                gathered.skipped.add(index)
            else:
                gathered.found[index] = coco_results(found, image, ids, self.form.conventions)
        gathered.cut.append(int(to_host(outputs["cut"]).sum()))
        gathered.finite.append(bool(to_host(outputs["finite"]).all()))
        return gathered

    def read(self, outputs: Mapping[str, Any]) -> dict[int, Found]:
        """Return the detections in the images' own pixels, by the "index" of each image.

        A skipped image has the size 0 and no detections. All processes must call this.

        Args:
          outputs: outputs of an evaluation step.
        """
        host = {name: None if x is None else to_host(x) for name, x in outputs.items()}
        found = {}
        for row in np.flatnonzero(host["mask"]).tolist():
            kept = host["valid"][row]
            found[int(host["index"][row])] = Found(
                host["boxes"][row][kept] / np.tile(host["factors"][row], 2),
                host["scores"][row][kept],
                host["labels"][row][kept],
                None if host["masks"] is None else host["masks"][row][kept],
                tuple(host["original"][row].tolist()),
            )
        return found

    def finish(self, gathered: Gathered) -> Evaluation:
        """Return COCO's twelve figures for boxes and, with a mask head, for masks.

        "cut" is the number of boxes that were left out before NMS, because `candidates` limits it.
        The figures are NaN if outputs of the network are not finite.

        Raises:
          UserError: if all images are damaged.
        """
        found, skipped = gathered.found, gathered.skipped
        if not found:
            raise UserError(f"all {len(skipped)} images of the evaluation are damaged")
        ids = {gathered.data.images[index]["id"] for index in found}
        truth = gathered.data.ground_truth()
        truth["images"] = [image for image in truth["images"] if image["id"] in ids]
        truth["annotations"] = [each for each in truth["annotations"] if each["image_id"] in ids]
        results = [each for index in sorted(found) for each in found[index]]
        metrics = {"cut": np.float64(sum(gathered.cut))}
        for kind in self.kinds:
            figures = coco_figures(truth, results, kind).figures
            metrics |= {f"{kind}_{name}": np.float64(x) for name, x in figures.items()}
        if self.voc:
            metrics["voc_mAP"] = np.float64(voc_figures(truth, results)[0])
        if not all(gathered.finite):
            metrics = dict.fromkeys(metrics, np.float64(np.nan))
        return Evaluation(metrics, len(found), len(skipped), results)


def _checked_buckets(
    buckets: Sequence[Sequence[int]] | None, divisor: int
) -> tuple[tuple[int, int], ...] | None:
    """Return the padded sizes; raise `UserError` unless they are multiples of the divisor."""
    if buckets is None:
        return None
    for bucket in buckets:
        pair = isinstance(bucket, Sequence) and len(bucket) == 2
        if not pair or not all(type(x) is int and x > 0 and x % divisor == 0 for x in bucket):
            raise UserError(
                f"each bucket must be a height and a width, multiples of {divisor}, not {bucket!r}"
            )
    if not buckets:
        raise UserError("buckets must be None, or have a size")
    return tuple(tuple(bucket) for bucket in buckets)
