"""COCO's metrics of detections, computed by pycocotools (the extra `coco`).

Source: Lin et al., "Microsoft COCO", ECCV 2014, arXiv 1405.0312; https://cocodataset.org/#detection-eval.
"""

import contextlib
import copy
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from aggnets_jax.errors import UserError, import_optional, unknown

KINDS = ("bbox", "segm")
"""Kinds of figures: of boxes and of masks."""

FIGURES = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large"),
)
"""Names of COCO's twelve figures; AP and AR are means over IoU thresholds 0.5, 0.55, ..., 0.95."""

SIZES = ("all", "small", "medium", "large")
"""Sizes of objects: all, below 32x32 pixels, below 96x96, and larger."""


class CocoFigures(NamedTuple):
    """Figures of a set of detections; -1 where there is no object.

    Attributes:
      figures: the twelve figures by name.
      per_category: AP of each category, by its id.
      per_threshold: AP at each IoU threshold.
      per_size: AP of each category by id, for each of `SIZES`.
      precision: precision at 101 recalls from 0 to 1, the mean over categories, by IoU threshold.
      per_image: F1 score of each image by id, see `f1_scores`.
    """

    figures: dict[str, float]
    per_category: dict[int, float]
    per_threshold: list[float]
    per_size: dict[int, dict[str, float]]
    precision: dict[float, list[float]]
    per_image: dict[int, float]


def coco_figures(
    ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], kind: str
) -> CocoFigures:
    """Compute COCO's figures.

    Args:
      ground_truth: content of an annotation file; not changed.
      results: detections in COCO's format of results; not changed, may be empty.
      kind: "bbox", or "segm" for results with "segmentation".

    Raises:
      UserError: for another kind, a wrong result (see `check_results`), or without pycocotools.
    """
    if kind not in KINDS:
        raise unknown("kind of COCO's figures", kind, KINDS)
    check_results(ground_truth, results, kind)
    missing = "metrics need pycocotools: pip install 'aggnets-jax[coco]'"
    coco, cocoeval = (
        import_optional(f"pycocotools.{name}", missing) for name in ("coco", "cocoeval")
    )
    with contextlib.redirect_stdout(io.StringIO()):
        objects = coco.COCO()
        # pycocotools changes what it is given.
        objects.dataset = copy.deepcopy(dict(ground_truth))
        # An id of 0 would be "not matched" to it.
        for number, each in enumerate(objects.dataset["annotations"], start=1):
            each["id"] = number
        objects.createIndex()
        # With boxes, pycocotools would take their areas for the masks' areas.
        left_out = {"bbox"} if kind == "segm" else {"segmentation"}
        kept = [{k: v for k, v in each.items() if k not in left_out} for each in results]
        found = objects.loadRes(copy.deepcopy(kept)) if kept else _nothing(coco, objects)
        evaluation = cocoeval.COCOeval(objects, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # [thresholds, recalls, categories, areas, numbers of detections]
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    figures = dict(zip(FIGURES, map(float, evaluation.stats), strict=True))
    categories = evaluation.params.catIds
    per_category = {
        int(category): _mean(precision[:, :, i]) for i, category in enumerate(categories)
    }
    by_size = evaluation.eval["precision"][..., -1]
    per_size = {
        int(category): {size: _mean(by_size[:, :, i, k]) for k, size in enumerate(SIZES)}
        for i, category in enumerate(categories)
    }
    thresholds = evaluation.params.iouThrs.round(2).tolist()
    curves = [[_mean(recall) for recall in each] for each in precision]
    return CocoFigures(
        figures,
        per_category,
        [_mean(each) for each in precision],
        per_size,
        dict(zip(thresholds, curves, strict=True)),
        f1_scores(evaluation),
    )


def check_results(
    ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], kind: str
) -> None:
    """Raise `UserError` for results without a field, of an unknown image, or with wrong numbers."""
    images = {image["id"] for image in ground_truth.get("images", ())}
    for number, result in enumerate(results):
        for field in ("image_id", "category_id", "score", kind.replace("segm", "segmentation")):
            if field not in result:
                raise UserError(f"result {number} has no {field}")
        if "images" in ground_truth and result["image_id"] not in images:
            image = result["image_id"]
            raise UserError(f"result {number} is of image {image}, which the annotations lack")
        numbers = [result["score"], *(result["bbox"] if kind == "bbox" else ())]
        if len(numbers) != (5 if kind == "bbox" else 1) or not np.isfinite(numbers).all():
            needs = "a finite score" + (" and a bbox of four finite numbers" * (kind == "bbox"))
            raise UserError(f"result {number} must have {needs}")


def f1_scores(evaluation: Any, least_score: float = 0.3) -> dict[int, float]:
    """Return 2 TP / (2 TP + FP + FN) of each image, by id, at an IoU of 0.5.

    An image without objects and without detections has the score 1.

    Args:
      evaluation: pycocotools' evaluation after its `evaluate()`.
      least_score: detections with a lower score don't count.
    """
    params = evaluation.params
    images = [int(image) for image in params.imgIds]
    counts = {image: np.zeros(3) for image in images}  # TP, FP, objects
    for each in evaluation.evalImgs:
        if each is None or each["aRng"] != params.areaRng[0]:
            continue
        matched, ignored = each["dtMatches"][0] > 0, each["dtIgnore"][0].astype(bool)
        counted = (np.asarray(each["dtScores"]) >= least_score) & ~ignored
        objects = (~np.asarray(each["gtIgnore"], bool)).sum()
        found = (matched & counted).sum(), (~matched & counted).sum(), objects
        counts[int(each["image_id"])] += found
    scores = {}
    for image, (hits, wrong, objects) in counts.items():
        total = hits + wrong + objects  # the objects are TP + FN
        scores[image] = float(2 * hits / total) if total else 1.0
    return scores


def _nothing(coco: Any, objects: Any) -> Any:
    """Return no results in pycocotools' form, because `loadRes` refuses an empty list."""
    found = coco.COCO()
    found.dataset = {**objects.dataset, "annotations": []}
    found.createIndex()
    return found


def _mean(precision: np.ndarray) -> float:
    """Return the mean of the precisions that exist, or -1."""
    exists = precision > -1
    return float(precision[exists].mean()) if exists.any() else -1.0
