"""COCO's figures of detections, computed by pycocotools (the extra `aggnets-jax[coco]`).

Source: Lin et al., "Microsoft COCO", ECCV 2014, arXiv 1405.0312; https://cocodataset.org/#detection-eval.
"""

import contextlib
import copy
import importlib
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from aggnets_jax.errors import UserError, unknown

KINDS = ("bbox", "segm")

FIGURES = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large"),
)
"""Names of COCO's twelve figures; AP and AR are means over IoU thresholds 0.5, 0.55, ..., 0.95."""


class CocoFigures(NamedTuple):
    """Figures of a set of detections; -1 where there is no object.

    Attributes:
      figures: the twelve figures by name.
      per_category: AP of each category, by its id.
      per_threshold: AP at each IoU threshold.
    """

    figures: dict[str, float]
    per_category: dict[int, float]
    per_threshold: list[float]


def coco_figures(
    ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], kind: str
) -> CocoFigures:
    """Compute COCO's figures.

    Args:
      ground_truth: content of an annotation file; not changed.
      results: detections in COCO's format of results; not changed, may be empty.
      kind: "bbox", or "segm" for results with "segmentation".

    Raises:
      UserError: for another kind, or without pycocotools.
    """
    if kind not in KINDS:
        raise unknown("kind of COCO's figures", kind, KINDS)
    try:
        coco = importlib.import_module("pycocotools.coco")
        cocoeval = importlib.import_module("pycocotools.cocoeval")
    except ImportError as error:
        raise UserError("COCO's figures need pycocotools: install aggnets-jax[coco]") from error
    with contextlib.redirect_stdout(io.StringIO()):
        objects = coco.COCO()
        # pycocotools changes what it is given.
        objects.dataset = copy.deepcopy(dict(ground_truth))
        objects.createIndex()
        # With boxes, pycocotools would take their areas for the masks' areas.
        left_out = {"bbox"} if kind == "segm" else {"segmentation"}
        kept = [{k: v for k, v in each.items() if k not in left_out} for each in results]
        found = objects.loadRes(copy.deepcopy(kept))
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
    return CocoFigures(figures, per_category, [_mean(each) for each in precision])


def _mean(precision: np.ndarray) -> float:
    """Return the mean of the precisions that exist, or -1."""
    exists = precision > -1
    return float(precision[exists].mean()) if exists.any() else -1.0
