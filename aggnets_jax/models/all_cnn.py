"""ALL-CNN-C: convolutions at stride 2 in the place of poolings.

Paper: Springenberg et al., "Striving for Simplicity: The All Convolutional Net", ICLR 2015
workshop, arXiv 1412.6806 (Tables 1 and 2, C).

    3x3(96) 3x3(96) 3x3/2(96) | 3x3(192) 3x3(192) 3x3/2(192) | 3x3(192) 1x1(192) 1x1(classes), mean

All convolutions are biased and followed by ReLU, the last one, too. The first of the last stage
does not pad (8x8 becomes 6x6). The paper's dropout, 0.2 on the images and 0.5 after the
convolutions at stride 2, is 0 here by default.

The paper leaves open whether ReLU follows the last convolution, and whether convolutions at stride
2 pad by 1. Sizes do not depend on either.
"""

from typing import Annotated, Any

from aggnets_jax.models.plain_cnn import Convolution, PlainCNN, PlainStage, plain_cnn
from aggnets_jax.models.registry import register_family

STAGES = (
    PlainStage((Convolution(96, 3), Convolution(96, 3)), "conv"),
    PlainStage((Convolution(192, 3), Convolution(192, 3)), "conv"),
    PlainStage((Convolution(192, 3, padded=False), Convolution(192, 1))),
)


def all_cnn_c(**fields: Annotated[Any, plain_cnn]) -> PlainCNN:
    """Build ALL-CNN-C; `**fields` are further arguments of `plain_cnn`."""
    return plain_cnn(STAGES, **fields)


register_family(
    "all_cnn_c",
    all_cnn_c,
    pattern="all_cnn_c",
    paper="Striving for Simplicity: The All Convolutional Net, ICLR 2015 workshop, arXiv 1412.6806",
)
