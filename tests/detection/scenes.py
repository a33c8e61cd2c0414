"""Random boxes for properties, and the parts of detectors written as loops."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from aggnets_jax.detection.conventions import CENTER, LEGACY, TORCHVISION

RECORDS = (LEGACY, CENTER, TORCHVISION)
SEEDS = st.integers(0, 2**31 - 1)

# Every example has the same shapes, so that a program is compiled once.
few = settings(max_examples=8, deadline=None)


def boxes(seed, number, size=(60, 80), whole=False):
    """Return boxes [number, 4] in an image, of sides of at least 1 pixel, some of them equal."""
    random = np.random.default_rng(seed)
    height, width = size
    corner = random.uniform(0, [width - 2, height - 2], (number, 2))
    end = corner + random.uniform(1, 30, (number, 2))
    found = np.concatenate([corner, np.minimum(end, [width - 1, height - 1])], axis=1)
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
    found[number // 2] = found[0]
    return np.round(found) if whole else found


def overlap(a, b, extent):
    """Return the IoU of two boxes."""
    sides = [min(a[i + 2], b[i + 2]) - max(a[i], b[i]) + extent for i in (0, 1)]
    both = max(sides[0], 0) * max(sides[1], 0)
    areas = [(x[2] - x[0] + extent) * (x[3] - x[1] + extent) for x in (a, b)]
    return both / (sum(areas) - both)


def greedy(boxes, threshold, extent, classes=None):
    """Return the indices that greedy NMS keeps of boxes in the order of their scores."""
    kept = []
    for i, box in enumerate(boxes):
        rivals = [j for j in kept if classes is None or classes[j] == classes[i]]
        if all(overlap(boxes[j], box, extent) <= threshold for j in rivals):
            kept.append(i)
    return kept
