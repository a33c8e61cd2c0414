"""Pascal VOC's mean average precision, of boxes.

Source: Everingham et al., "The Pascal Visual Object Classes (VOC) Challenge", IJCV 2010, Section
4.2; the development kit of 2007. As in the paper, the IoU exceeds the threshold; the kit accepts
the threshold, too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aggnets_jax.detection.coco import check_results

# As the kit's Python versions compute them: 0.3, 0.6 and 0.7 are above the recalls 3/10, 6/10 and
# 7/10 by a rounding error, so that these don't reach them.
_RECALLS = np.linspace(0, 1, 11)


def voc_figures(
    ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], threshold: float = 0.5
) -> tuple[float, dict[int, float]]:
    """Compute VOC's mAP of 2007, whose precision is taken at 11 recalls.

    A detection belongs to the object with which its IoU is largest, if that exceeds the threshold.
    The one with the highest score finds the object; all others are wrong, as are detections that
    belong to no object. Crowds and objects with "difficult" don't count, and neither do their
    detections.

    Args:
      ground_truth: content of an annotation file in COCO's format.
      results: detections in COCO's format of results.
      threshold: IoU of a match.

    Returns:
      The mean over the categories with objects, in 0..1 or -1 without any, and AP by category.

    Raises:
      UserError: for a wrong result, see `coco.check_results`.
    """
    check_results(ground_truth, results, "bbox")
    by_category = {}
    for category in ground_truth["categories"]:
        identity = category["id"]
        objects = [a for a in ground_truth["annotations"] if a["category_id"] == identity]
        found = [r for r in results if r["category_id"] == identity]
        counted = sum(not _is_ignored(each) for each in objects)
        if counted:
            right, wrong = _matches(objects, found, threshold)
            by_category[identity] = _average_precision(right, wrong, counted)
    mean = float(np.mean(list(by_category.values()))) if by_category else -1.0
    return mean, by_category


def _is_ignored(annotation: Mapping[str, Any]) -> bool:
    return bool(annotation.get("difficult") or annotation.get("iscrowd"))


def _matches(
    objects: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]], threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return which detections of a category are right and wrong, bool [n], by falling score."""
    by_image: dict[int, list[Mapping[str, Any]]] = {}
    for each in objects:
        by_image.setdefault(each["image_id"], []).append(each)
    boxes = {image: np.array([o["bbox"] for o in own], float) for image, own in by_image.items()}
    order = np.argsort([-each["score"] for each in found], kind="stable")
    right, wrong = np.zeros((2, len(found)), bool)
    taken: set[int] = set()
    for place, number in enumerate(order):
        image = found[number]["image_id"]
        own, best = by_image.get(image, []), -1
        if own:
            overlaps = _overlaps(np.array(found[number]["bbox"], float), boxes[image])
            best = int(np.argmax(overlaps))
        if not own or overlaps[best] <= threshold:
            wrong[place] = True
        elif not _is_ignored(own[best]):
            right[place] = id(own[best]) not in taken
            wrong[place] = not right[place]
            taken.add(id(own[best]))
    return right, wrong


def _overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the IoU [n] of a box (x, y, width, height) with others [n, 4]; 0 without any area."""
    corner = np.maximum(box[:2], others[:, :2])
    end = np.minimum(box[:2] + box[2:], others[:, :2] + others[:, 2:])
    both = np.prod(np.maximum(end - corner, 0), axis=1)
    union = np.prod(box[2:]) + np.prod(others[:, 2:], axis=1) - both
    return np.divide(both, union, out=np.zeros_like(both), where=union > 0)


def _average_precision(right: np.ndarray, wrong: np.ndarray, counted: int) -> float:
    """Return the mean, over 11 recalls, of the best precision at this recall or a higher one."""
    hits = np.cumsum(right)
    recall, precision = hits / counted, hits / np.maximum(hits + np.cumsum(wrong), 1)
    best = [precision[recall >= least].max(initial=0) for least in _RECALLS]
    return float(np.mean(best))
