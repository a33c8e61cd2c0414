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


_AP = "Average precision, COCO's mean over IoU thresholds from 0.5 to 0.95."

CLASSIFICATION = (
    Metric(
        "accuracy",
        "accuracy",
        "Share of the images whose class is the most probable.",
    ),
    Metric("accuracy_top5", "top-5 accuracy"),
    Metric("loss", "loss", "Mean cross entropy of the evaluation images, on a logarithmic axis."),
)
MULTILABEL = (
    Metric("mAP", "mAP", "Mean over the classes of the average precision."),
    Metric("F1", "F1", "F1 over all pairs of image and class."),
    Metric("F1_of_classes", "F1 of classes"),
    Metric("loss", "loss", "Mean binary cross entropy of the evaluation, on a logarithmic axis."),
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
    every = next(
        (each for each in (DETECTION, MULTILABEL) if each[0].name in evaluation), CLASSIFICATION
    )
    return tuple(metric for metric in every if metric.name in evaluation)


def curves_of(evaluation: Mapping[str, Any]) -> tuple[Metric, ...]:
    """Return the metrics with a curve, by their keys in `metrics.jsonl`, the losses first.

    The losses have an axis each: label smoothing, mixup and the augmentation of the images raise
    only the training loss.
    """
    caption = (
        "Mean loss of the training images, on a logarithmic axis. Label smoothing and the"
        " augmentation of the images raise it, so it can't be compared with the evaluation loss."
    )
    if DETECTION[0].name in evaluation:
        caption = "Sum of the detector's losses, on a logarithmic axis."
    shown = sorted(metrics_in(evaluation), key=lambda metric: metric.name != "loss")
    return (
        Metric("train/loss", "training loss", caption),
        *(
            Metric(f"eval/{name}", f"evaluation {title}", caption)
            for name, title, caption in shown
            if caption
        ),
    )
