"""Networks of torchvision or timm that equal ours, where one of them is installed."""

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from aggnets_jax.convert import to_torch

_NAMES = ("densenet121", "efficientnet_b0", "resnet50", "resnext50_32x4d", "wide_resnet50_2")


def published(name: str, variables: Mapping[str, Any] | None = None) -> nn.Module | None:
    """Create a network with torchvision, or else with timm; dropout is off.

    Args:
      name: see `aggnets_jax.create_model`.
      variables: of our network with 1000 classes, to be loaded; `None` keeps the library's initial
        weights.

    Returns:
      A module from images [batch, 3, height, width] to logits [batch, 1000]; `None` if neither
      library can be imported, or they do not both have the network.

    Raises:
      UserError: for variables of another network.
    """
    if name not in _NAMES:
        return None
    for dialect, make in (("torchvision", _torchvision), ("timm", _timm)):
        try:
            module = make(name)
        except (ImportError, RuntimeError):  # RuntimeError: built for another PyTorch
            continue
        if variables is not None:
            weights = to_torch(name, variables, dialect=dialect)
            module.load_state_dict({k: torch.tensor(v) for k, v in weights.items()})
        return module
    return None


def _torchvision(name: str) -> nn.Module:
    models = importlib.import_module("torchvision.models")
    rates = {"dropout": 0.0, "stochastic_depth_prob": 0.0} if name.startswith("eff") else {}
    return models.get_model(name, **rates)


def _timm(name: str) -> nn.Module:
    return importlib.import_module("timm").create_model(name)
