"""PyTorch networks under the names of our networks."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from flax import linen
from torch import nn

from aggnets_jax import models
from aggnets_jax.benchmark.torch_networks import dense, quoted, residual
from aggnets_jax.benchmark.torch_networks.blocks import ATTENTIONS
from aggnets_jax.benchmark.torch_networks.seqresnet import SeqResNet
from aggnets_jax.errors import UserError

# By the class of our network: builds the PyTorch network from ours and (height, width, channels).
_NETWORKS: dict[type[linen.Module], Callable[[Any, Sequence[int]], nn.Module]] = {
    models.condensenet.CondenseNet: quoted.condensenet,
    models.dpn.DPN: dense.dpn,
    models.efficientnet.EfficientNet: residual.efficientnet,
    models.fpnasnet.FPNASNet: quoted.fpnasnet,
    models.fractalnet.FractalNet: residual.fractalnet,
    models.googlenet.GoogLeNet: quoted.googlenet,
    models.hardnet.HarDNet: dense.hardnet,
    models.hcgnet.HCGNet: dense.hcgnet,
    models.highway.HighwayNet: residual.highway,
    models.log_densenet_v2.LogDenseNetV2: quoted.LogDenseNetV2,
    models.mixnet.MixNet: dense.mixnet,
    models.mobilenet.MobileNetV2: quoted.mobilenet,
    models.plain_cnn.PlainCNN: quoted.plain_cnn,
    models.preact_resnet.PreActResNet: residual.preact_resnet,
    models.pyramidnet.PyramidNet: residual.pyramidnet,
    models.resnet.ResNet: residual.resnet,
    models.seqresnet.SeqResNet: SeqResNet,
    models.seqresnet.SeqResNeXt: SeqResNet,
    models.shufflenet.ShuffleNetV2: quoted.shufflenet,
    models.sparsenet.SparseNet: dense.sparsenet,
    models.wide_dpn.WideDPN: quoted.wide_dpn,
    models.wide_resnet.WideResNet: residual.wide_resnet,
}
# Fields that draw random numbers in training, which differ between the libraries, or add losses.
_MISSING = (
    *("dropout", "input_dropout", "map_dropout", "dropblock", "drop_connect", "drop_path"),
    *("stochastic_depth", "dynamic_regularisation", "auxiliary_weight", "companions", "condensed"),
)


def create(
    name: str,
    num_classes: int | None = None,
    *,
    input_shape: Sequence[int] | None = None,
    **overrides: Any,
) -> nn.Module:
    """Create a network with PyTorch's initial weights; see `load_variables` for ours.

    Args:
      name: see `aggnets_jax.create_model`.
      num_classes: see `aggnets_jax.create_model`.
      input_shape: (height, width, channels) of the images; `None` means as in the paper.
      **overrides: see `aggnets_jax.create_model`; `dtype`, `remat`, `scan` and `shared_statistics`
        have no effect.

    Returns:
      A module from images [batch, channels, height, width] to logits [batch, classes].

    Raises:
      UserError: as `create_model`; for a network that is missing here; for an aggregation other
        than the family's default; for the fields in `_MISSING`.
    """
    network = models.create_model(name, num_classes, **overrides)
    shape = models.input_shape(name) if input_shape is None else input_shape
    build = _NETWORKS.get(type(network))
    if build is None or getattr(network, "attention", None) not in ATTENTIONS:
        covered = ", ".join(covered.__name__ for covered in _NETWORKS)
        raise UserError(f"there is no {name!r} in PyTorch here; there are: {covered}")
    fields = type(network).__dataclass_fields__
    if "aggregation" in fields and network.aggregation != fields["aggregation"].default:
        raise UserError(
            f"{name!r} in PyTorch has the aggregation {fields['aggregation'].default!r} only, got"
            f" {network.aggregation!r}"
        )
    for field in _MISSING:
        if np.any(getattr(network, field, False)):
            raise UserError(f"{name!r} in PyTorch has no {field}, got {getattr(network, field)!r}")
    return build(network, models.check_image_shape(shape))
