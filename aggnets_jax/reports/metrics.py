"""The metrics that a report shows, by the task of the run."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Metric(NamedTuple):
    """A metric of an evaluation.

    Attributes:
      name: its name in an evaluation.
      title: its name on pages.
      caption: below its curve.
    """

    name: str
    title: str
    caption: str = ""


_LOSS = (
    "Loss by step, on a logarithmic axis. In training it includes label smoothing and the"
    " augmentation of the images."
)
_AP = "Average precision by step, COCO's mean over IoU thresholds from 0.5 to 0.95."

CLASSIFICATION = (
    Metric(
        "accuracy",
        "accuracy",
        "Accuracy by step: share of the images whose class is the most probable.",
    ),
    Metric("accuracy_top5", "top-5 accuracy"),
    Metric("loss", "loss", _LOSS),
)
DETECTION = (
    Metric("bbox_AP", "box AP", f"{_AP} Boxes."),
    Metric("bbox_AP50", "box AP50"),
    Metric("bbox_AP75", "box AP75"),
    Metric("segm_AP", "mask AP", f"{_AP} Masks."),
    Metric("segm_AP50", "mask AP50"),
    Metric("segm_AP75", "mask AP75"),
)


def metrics_in(evaluation: Mapping[str, Any]) -> tuple[Metric, ...]:
    """Return the metrics that an evaluation has; the first is the most important."""
    every = DETECTION if DETECTION[0].name in evaluation else CLASSIFICATION
    return tuple(metric for metric in every if metric.name in evaluation)


def curves_of(evaluation: Mapping[str, Any]) -> tuple[Metric, ...]:
    """Return the metrics with a curve, the loss first."""
    loss = CLASSIFICATION[-1]
    if DETECTION[0].name in evaluation:
        loss = loss._replace(caption="Sum of the detector's losses by step, on a logarithmic axis.")
    others = [each for each in metrics_in(evaluation) if each.caption and each.name != "loss"]
    return (loss, *others)
