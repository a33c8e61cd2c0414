"""The networks. Importing this package registers all of them."""

from aggnets_jax.models import efficientnet, preact_resnet, sparsenet  # noqa: F401
from aggnets_jax.models.counting import Count, count
from aggnets_jax.models.registry import (
    ModelInfo,
    create_configured_model,
    create_model,
    input_shape,
    list_families,
    list_models,
    model_info,
    paper_flops,
)

__all__ = [
    "Count",
    "ModelInfo",
    "count",
    "create_configured_model",
    "create_model",
    "input_shape",
    "list_families",
    "list_models",
    "model_info",
    "paper_flops",
]
