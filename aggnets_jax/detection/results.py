"""Detections of an image in its own pixels, and in COCO's format of results.

https://cocodataset.org/#format-results
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from aggnets_jax.detection.conventions import Conventions
from aggnets_jax.detection.masks import paste_binary


class Found(NamedTuple):
    """The detections of an image, in the order of their scores, without padding.

    Attributes:
      boxes: (x1, y1, x2, y2) in pixels of the image's file, float [n, 4].
      scores: probabilities [n].
      labels: classes 0, ..., num_classes - 1, int [n].
      masks: probabilities [n, side, side] in the boxes, or None.
      size: (height, width) of the image's file.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None
    size: tuple[int, int]

    def mask(self, number: int, conventions: Conventions) -> np.ndarray:
        """Return the mask of a detection in the image, bool [height, width]."""
        return paste_binary(self.masks[number], self.boxes[number], self.size, conventions)


def coco_results(
    found: Found, image: int, category_ids: Sequence[int], conventions: Conventions
) -> list[dict[str, Any]]:
    """Return the detections of an image in COCO's format, with masks as run-length counts.

    Args:
      found: the detections.
      image: id of the image.
      category_ids: id of each class.
      conventions: see `Conventions`.
    """
    results = []
    for number, (box, score, label) in enumerate(
        zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
    ):
        x1, y1, x2, y2 = box
        extent = conventions.extent
        result = {
            "image_id": image,
            "category_id": category_ids[label],
            "bbox": [x1, y1, x2 - x1 + extent, y2 - y1 + extent],
            "score": score,
        }
        if found.masks is not None:
            result["segmentation"] = _encoded(found.mask(number, conventions))
        results.append(result)
    return results


def _encoded(mask: np.ndarray) -> dict[str, Any]:
    """Return a mask as compressed run-length counts, JSON data."""
    import pycocotools.mask

    encoded = pycocotools.mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode("ascii")}
