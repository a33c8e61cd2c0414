r"""Deeply-Supervised Net: Network in Network with a classifier on each stage.

Paper: Lee et al., "Deeply-Supervised Nets", AISTATS 2015, arXiv 1409.5185.

    loss = squared hinge of the output + weight * sum over stages of the companion's squared hinge

    x -- conv --+-- ReLU-1x1-1x1-pool -- conv --+-- ReLU-1x1-1x1-pool -- conv --+-- ... -- output
                |                               |                               |
             companion 1                     companion 2                     companion 3

The layout is the authors' for Caffe: poolings of 3x3 at stride 2 round sizes up, the convolution to
the classes has no ReLU, and another linear layer follows the mean over positions. A companion is a
linear layer on all values of a stage's first convolution, before ReLU.

Companions change neither the network's output nor its size, so they are left out unless their
weight `companions` is set. The authors give them small weights that fade out; their layout does not
have the numbers. Here their weight is `companions` times the strength in training. Our choice is
0.001 with `config.strength = 1` and `config.strength_schedule = "fade"`.
"""

from typing import Annotated, Any

from aggnets_jax.models.plain_cnn import Convolution, PlainCNN, PlainStage, plain_cnn
from aggnets_jax.models.registry import register_family

STAGES = (
    PlainStage((Convolution(192, 5), Convolution(160, 1), Convolution(96, 1)), "max_ceil"),
    PlainStage((Convolution(192, 5), Convolution(192, 1), Convolution(192, 1)), "max_ceil"),
    PlainStage((Convolution(192, 3), Convolution(192, 1))),
)


def dsn_cifar(**fields: Annotated[Any, plain_cnn]) -> PlainCNN:
    """Build a Deeply-Supervised Net; `**fields` are further arguments of `plain_cnn`."""
    return plain_cnn(STAGES, further_linear=True, **fields)


register_family(
    "dsn_cifar",
    dsn_cifar,
    pattern="dsn_cifar",
    paper="Deeply-Supervised Nets, AISTATS 2015, arXiv 1409.5185",
)
