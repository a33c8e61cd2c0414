"""Published weights with the names and shapes of a network here, but for another function.

`tf_efficientnet_b0` of timm has the names of `efficientnet_b0`, but pads convolutions as TensorFlow
does, and adds another epsilon to variances. The padding is an argument of the network, and the
epsilon can be absorbed by the scales. This file also converts colour weights for images with
another number of channels, as timm does.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from aggnets_jax.arguments import check_number
from aggnets_jax.errors import UserError
from aggnets_jax.layers.batch_norm import BatchNorm
from aggnets_jax.layers.residual_blocks import Bottleneck
from aggnets_jax.models.efficientnet import EfficientNet
from aggnets_jax.models.resnet import ResNet

_COLORS = 3


def print_twins(network: nn.Module) -> None:
    """Print which published weights have the same names as a network's, and another function."""
    if isinstance(network, EfficientNet) and network.padding == "symmetric":
        print(
            "timm's tf_efficientnet_b0 has the same names; for its weights set padding='same' and"
            " epsilon=1e-3 (--config.model.args.padding=same --epsilon=1e-3)",
            flush=True,
        )
    if isinstance(network, ResNet) and network.block is Bottleneck:
        print(
            "timm's resnetaa50 and resnetblur50, and backbones of detectors in the style of Caffe,"
            " have the same names as ResNets, but other strides; they are other functions",
            flush=True,
        )


def epsilon_of_variant(metadata: Mapping[str, Any], arguments: Mapping[str, Any]) -> float | None:
    """Return the epsilon of a file's weights, if it is another one than the network's here.

    Args:
      metadata: facts about the weights, from `read_metadata`.
      arguments: arguments of the network.

    Raises:
      UserError: for weights from TensorFlow, if the network does not pad as TensorFlow does.
    """
    architecture = metadata.get("architecture", "")
    if not architecture.startswith("tf_"):
        return None
    if arguments.get("padding") != "same":
        raise UserError(
            f"these are the weights of {architecture}, which pads as TensorFlow does: set"
            " --config.model.args.padding=same"
        )
    return 1e-3


class Facts(NamedTuple):
    """Facts about a network's modules.

    Attributes:
      first_kernel: path of the kernel that reads the images.
      epsilons: number that each normalisation adds to variances, by its path.
    """

    first_kernel: str
    epsilons: dict[str, float]


@functools.lru_cache(maxsize=4)
def module_facts(model: nn.Module, image_shape: tuple[int, int, int]) -> Facts:
    """Return facts about a network's modules; nothing is computed for it."""
    kernels, found = [], {}

    def note(call: Any, arguments: Any, keywords: Any, context: Any) -> Any:
        path = "/".join(context.module.path)
        if isinstance(context.module, BatchNorm):
            found[path] = context.module.epsilon
        elif isinstance(context.module, nn.Conv):
            kernels.append(f"params/{path}/kernel")
        return call(*arguments, **keywords)

    with nn.intercept_methods(note):
        images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
    return Facts(kernels[0], found)


def adapt_channels(key: str, kernel: np.ndarray, wanted: tuple[int, ...]) -> np.ndarray:
    """Adapt a kernel [out, 3, height, width] of colour images to images with other channels.

    For grey images the kernel is summed over the colours, so that it computes the same for grey
    colour images. For n channels the colours are repeated and multiplied by 3 / n. Other kernels
    are returned as they are.
    """
    other = kernel.ndim == 4 and kernel.shape[1] != wanted[1]
    if not other or kernel.shape[1] != _COLORS:
        return kernel
    channels = wanted[1]
    print(f"{key!r} of colour images is adapted to images with {channels} channel(s)", flush=True)
    if channels == 1:
        return kernel.sum(1, keepdims=True)
    repeated = np.tile(kernel, (1, -(-channels // _COLORS), 1, 1))[:, :channels]
    return repeated * (_COLORS / channels)


def change_epsilons(
    variables: Mapping[str, np.ndarray], changes: Mapping[str, tuple[float, float]]
) -> dict[str, np.ndarray]:
    """Return the scales with which normalisations compute the same with another epsilon.

    scale / sqrt(var + before) stays the same: `changes` has before and after by a normalisation's
    path, and the variables are arrays by path.

    Raises:
      UserError: for a negative epsilon, and a normalisation without a scale.
    """
    scales = {}
    for path, (before, after) in changes.items():
        for epsilon in (before, after):
            check_number("epsilon", epsilon, 0)
        if before == after:
            continue
        scale = variables.get(f"params/{path}/scale")
        if scale is None:
            raise UserError(f"the normalisation {path!r} has no scale that could absorb an epsilon")
        var = variables[f"batch_stats/{path}/var"].astype(np.float64)
        changed = scale * np.sqrt((var + after) / np.maximum(var + before, np.finfo(float).tiny))
        scales[f"params/{path}/scale"] = changed.astype(scale.dtype)
    return scales
