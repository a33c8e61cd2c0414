"""Images with objects: annotations in COCO's format, and their batches on the devices."""

from aggnets_jax.data.objects.annotations import Annotated, read_annotations
from aggnets_jax.data.objects.batches import EvaluatedImages, TrainedImages, train_data
from aggnets_jax.data.objects.examples import Form
from aggnets_jax.data.objects.folders import describe_objects, read_split

__all__ = [
    "Annotated",
    "EvaluatedImages",
    "Form",
    "TrainedImages",
    "describe_objects",
    "read_annotations",
    "read_split",
    "train_data",
]
