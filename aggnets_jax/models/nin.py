"""Network in Network: 1x1 convolutions between larger ones, and no linear layer.

Paper: Lin et al., "Network In Network", ICLR 2014, arXiv 1312.4400.

    5x5(192) 1x1(160) 1x1(96) | 5x5(192) 1x1(192) 1x1(192) | 3x3(192) 1x1(192) 1x1(classes), mean

All convolutions are biased and followed by ReLU, the last one, too. Between the stages are max and
average poolings (which average the padding, too) and dropout, 0.5 in the paper and 0 here by
default. As in the public ports, poolings pad by 1.
"""

from typing import Annotated, Any

from aggnets_jax.models.plain_cnn import Convolution, PlainCNN, PlainStage, plain_cnn
from aggnets_jax.models.registry import register_family

STAGES = (
    PlainStage((Convolution(192, 5), Convolution(160, 1), Convolution(96, 1)), "max"),
    PlainStage((Convolution(192, 5), Convolution(192, 1), Convolution(192, 1)), "average"),
    PlainStage((Convolution(192, 3), Convolution(192, 1))),
)


def nin_cifar(**fields: Annotated[Any, plain_cnn]) -> PlainCNN:
    """Build Network in Network; `**fields` are further arguments of `plain_cnn`."""
    return plain_cnn(STAGES, **fields)


register_family(
    "nin_cifar",
    nin_cifar,
    pattern="nin_cifar",
    paper="Network In Network, ICLR 2014, arXiv 1312.4400",
)
