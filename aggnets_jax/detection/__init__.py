"""Detection and instance segmentation on any backbone: the parts of Faster and Mask R-CNN.

Papers: Ren et al., "Faster R-CNN", NeurIPS 2015, arXiv 1506.01497; Lin et al., "Feature Pyramid
Networks for Object Detection", CVPR 2017, arXiv 1612.03144; He et al., "Mask R-CNN", ICCV 2017,
arXiv 1703.06870.

Boxes are (x1, y1, x2, y2) in pixels of the network's input, sizes are (height, width). All shapes
are static: lists of boxes are padded, and a mask marks the real rows.
"""

from aggnets_jax.detection.conventions import CONVENTIONS, Conventions
from aggnets_jax.detection.detector import Detector
from aggnets_jax.detection.registry import create_detector, detector_info, list_detectors

__all__ = [
    "CONVENTIONS",
    "Conventions",
    "Detector",
    "create_detector",
    "detector_info",
    "list_detectors",
]
