"""SKNet: ResNeXt whose 3x3 convolutions select their kernel.

Paper: Li et al., "Selective Kernel Networks", CVPR 2019, arXiv 1903.06586 (Table 1).

    y_l = ReLU(F_l(y_{l-1}) + y_{l-1}),   F = 1x1-BN-ReLU, SK, 1x1-BN

SK (`layers/selective_kernel.py`) has a 3x3 branch and one of dilation 2, in 32 groups, and the
weights have max(channels / 16, 32) hidden channels. SKNet-101 has the text's 32 hidden channels at
least everywhere; the authors' file has 16 in one place.

`sknet29_16x32d` is HCGNet's "ResNeXt-29 + SK" for CIFAR: branches of 3x3 and 1x1, a reduction of 32
and 16 groups. This is a choice, of 18 that were tried, with 0.1M parameters more than the printed
27.7M; what the paper of the row used is not known.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

from flax import linen as nn

from aggnets_jax.arguments import check_whole_number, choose
from aggnets_jax.layers import common
from aggnets_jax.layers.residual_blocks import Bottleneck, block_numbers
from aggnets_jax.layers.selective_kernel import SelectiveKernel
from aggnets_jax.models.registry import IMAGENET, register_family
from aggnets_jax.models.resnet import ResNet, residual_network

# Arguments of the convolutions of a branch.
KERNELS = {
    "1x1": {"kernel_size": 1},
    "3x3": {"kernel_size": 3},
    "5x5": {"kernel_size": 5},
    "dilated": {"kernel_size": 3, "dilation": 2},
}


@dataclasses.dataclass(frozen=True)
class SelectiveConv:
    """Maker of SK, in the place of a bottleneck's convolution, from keys of `KERNELS`."""

    kernels: tuple[str, ...]
    reduction: int

    def __call__(
        self,
        features: int,
        *,
        stride: int,
        groups: int,
        norm: common.Norm,
        conv: common.Conv,
        name: str,
    ) -> nn.Module:
        """Make the module of `features` channels."""
        shape = {"stride": stride, "groups": groups}
        branches = tuple(partial(conv, **KERNELS[kernel], **shape) for kernel in self.kernels)
        return SelectiveKernel(features, branches, self.reduction, norm, conv, name=name)


def sknet(
    *,
    depth: int | None = None,
    stages: int = 4,
    stage_depths: Sequence[int] | None = None,
    groups: int = 32,
    base_width: int = 4,
    kernels: Sequence[str] = ("3x3", "dilated"),
    reduction: int = 16,
    **fields: Annotated[Any, residual_network],
) -> ResNet:
    """Build a `ResNet` of bottlenecks with selective kernels.

    Args:
      depth: depth of the ResNet with as many blocks; needed without `stage_depths`.
      stages: 4, or 3 of equal depth.
      stage_depths: blocks of each stage; default from `depth`.
      groups: groups of the convolutions of the branches.
      base_width: width of each group in the first stage.
      kernels: convolutions to select from: "1x1", "3x3", "5x5", "dilated" (3x3).
      reduction: by how much the hidden layer of the weights is narrower than the output.
      **fields: further arguments of `residual_network`.

    Raises:
      UserError: for numbers that fit no network.
    """
    check_whole_number("groups", groups, 1)
    check_whole_number("base_width", base_width, 1)
    check_whole_number("reduction", reduction, 1)
    for kernel in kernels:
        choose("kernel", KERNELS, kernel)
    if stage_depths is None:
        stage_depths = block_numbers(depth, stages, blocks=("bottleneck",))
    options = {
        "groups": groups,
        "base_width": base_width,
        "conv3x3": SelectiveConv(tuple(kernels), reduction),
    }
    return residual_network(
        Bottleneck, options, stage_depths=stage_depths, inner_shortcuts=False, **fields
    )


_PAPER = "Selective Kernel Networks, CVPR 2019, arXiv 1903.06586"

register_family(
    "sknet",
    partial(sknet, imagenet_stem=True),
    pattern=r"sknet(?P<depth>\d+)",
    paper=_PAPER,
    **IMAGENET,
)
register_family(
    "sknet_three_stages",
    partial(sknet, stages=3, kernels=("3x3", "1x1"), reduction=32),
    pattern=r"sknet(?P<depth>\d+)_(?P<groups>\d+)x(?P<base_width>\d+)d",
    paper=_PAPER,
)
