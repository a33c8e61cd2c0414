"""The networks. Importing this package registers all of them."""

from aggnets_jax.models import preact_resnet, sparsenet  # noqa: F401
from aggnets_jax.models.registry import (
    ModelInfo,
    count,
    create_model,
    list_families,
    list_models,
    model_info,
)

__all__ = ["ModelInfo", "count", "create_model", "list_families", "list_models", "model_info"]
