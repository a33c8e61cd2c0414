"""Aggregation networks: convolutional networks defined by how layers read earlier layers."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aggnets_jax.connectivity.aggregation import register_aggregation
    from aggnets_jax.connectivity.patterns import pattern
    from aggnets_jax.connectivity.topology import Topology, make_topology
    from aggnets_jax.connectivity.unit import register_unit
    from aggnets_jax.models import (
        ModelInfo,
        create_model,
        list_families,
        list_models,
        model_info,
        register_family,
    )

__version__ = "0.1.0"

__all__ = [
    "ModelInfo",
    "Topology",
    "create_model",
    "list_families",
    "list_models",
    "make_topology",
    "model_info",
    "pattern",
    "register_aggregation",
    "register_family",
    "register_unit",
]

# JAX and Flax take most of a second to import, and each program of the package imports this first,
# if only to say what its flags are.
_FROM = {
    "Topology": "connectivity.topology",
    "make_topology": "connectivity.topology",
    "pattern": "connectivity.patterns",
    "register_aggregation": "connectivity.aggregation",
    "register_unit": "connectivity.unit",
}


def __getattr__(name: str) -> Any:
    """Import a public name, or the package of the networks, when first asked for."""
    if name == "models":
        return importlib.import_module(f"{__name__}.{name}")
    if name in __all__:
        return getattr(importlib.import_module(f"{__name__}.{_FROM.get(name, 'models')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
