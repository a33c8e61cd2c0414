"""Aggregation networks: convolutional networks defined by how layers read earlier layers."""

from aggnets_jax.models import ModelInfo, create_model, list_families, list_models, model_info
from aggnets_jax.topology import Topology, make_topology

__version__ = "0.1.0"

__all__ = [
    "ModelInfo",
    "Topology",
    "create_model",
    "list_families",
    "list_models",
    "make_topology",
    "model_info",
]
