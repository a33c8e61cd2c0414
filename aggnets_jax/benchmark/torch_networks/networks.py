"""PyTorch networks by the names that ours have."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from flax import linen
from torch import nn

from aggnets_jax import models
from aggnets_jax.benchmark.torch_networks.dpn import DPN
from aggnets_jax.benchmark.torch_networks.efficientnet import EfficientNet
from aggnets_jax.benchmark.torch_networks.fractalnet import FractalNet
from aggnets_jax.benchmark.torch_networks.hardnet import HarDNet
from aggnets_jax.benchmark.torch_networks.hcgnet import HCGNet
from aggnets_jax.benchmark.torch_networks.highway import HighwayNet
from aggnets_jax.benchmark.torch_networks.mixnet import MixNet
from aggnets_jax.benchmark.torch_networks.preact_resnet import PreActResNet
from aggnets_jax.benchmark.torch_networks.pyramidnet import PyramidNet
from aggnets_jax.benchmark.torch_networks.resnet import ResNet
from aggnets_jax.benchmark.torch_networks.seqresnet import SeqResNet
from aggnets_jax.benchmark.torch_networks.sparsenet import SparseNet
from aggnets_jax.benchmark.torch_networks.wide_resnet import WideResNet
from aggnets_jax.errors import UserError

# By the class of ours, what makes it of a network of ours and of (height, width, channels).
_NETWORKS: dict[type[linen.Module], Callable[[Any, Sequence[int]], nn.Module]] = {
    models.dpn.DPN: DPN,
    models.efficientnet.EfficientNet: EfficientNet,
    models.fractalnet.FractalNet: FractalNet,
    models.hardnet.HarDNet: HarDNet,
    models.hcgnet.HCGNet: HCGNet,
    models.highway.HighwayNet: HighwayNet,
    models.mixnet.MixNet: MixNet,
    models.preact_resnet.PreActResNet: PreActResNet,
    models.pyramidnet.PyramidNet: PyramidNet,
    models.resnet.ResNet: ResNet,
    models.seqresnet.SeqResNet: SeqResNet,
    models.seqresnet.SeqResNeXt: SeqResNet,
    models.sparsenet.SparseNet: SparseNet,
    models.wide_resnet.WideResNet: WideResNet,
}
# Which draw random numbers in training, each library its own.
_RANDOM = (
    "dropout",
    "map_dropout",
    "dropblock",
    "drop_connect",
    "drop_path",
    "stochastic_depth",
    "dynamic_regularisation",
)


def create(
    name: str,
    num_classes: int | None = None,
    *,
    input_shape: Sequence[int] | None = None,
    **overrides: Any,
) -> nn.Module:
    """Makes a network in PyTorch, with PyTorch's own weights at first; see `load_variables`.

    Args:
      name: see `aggnets_jax.create_model`.
      num_classes: see there.
      input_shape: (height, width, channels) of the images; default that of the network's paper.
      **overrides: see `aggnets_jax.create_model`. The network is that with `dtype` float32,
        without `remat`, `scan` and `shared_statistics`, whatever is given of them.

    Returns:
      A module from images [batch, channels, height, width] to logits [batch, classes].

    Raises:
      UserError: as `create_model`, for a network that is not covered here, for aggregations other
        than the family's own, and for what draws random numbers in training.
    """
    network = models.create_model(name, num_classes, **overrides)
    shape = models.input_shape(name) if input_shape is None else input_shape
    build = _NETWORKS.get(type(network))
    if build is None:
        covered = ", ".join(covered.__name__ for covered in _NETWORKS)
        raise UserError(f"there is no {name!r} in PyTorch here; there are those of: {covered}")
    fields = type(network).__dataclass_fields__
    if "aggregation" in fields and network.aggregation != fields["aggregation"].default:
        raise UserError(
            f"{name!r} in PyTorch has the aggregation {fields['aggregation'].default!r} only, got"
            f" {network.aggregation!r}"
        )
    for field in _RANDOM:
        if np.any(getattr(network, field, False)):
            raise UserError(f"{name!r} in PyTorch has no {field}, got {getattr(network, field)!r}")
    return build(network, models.check_image_shape(shape))
