"""The residual branches F of blocks with the activation last, and the number of blocks by depth.

Papers: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385, and
Xie et al., "Aggregated Residual Transformations for Deep Neural Networks", CVPR 2017, arXiv
1611.05431. The network adds the shortcut and applies the last ReLU (`shortcuts.py`).
"""

from collections.abc import Callable, Sequence

import jax
from flax import linen as nn

from aggnets_jax.arguments import check_whole_number, choose, layers_in_depth
from aggnets_jax.errors import UserError
from aggnets_jax.layers.common import Conv, Norm

EXPANSION = 4


def inner_features(width: int, base_width: int, groups: int) -> int:
    """Return groups * floor(width * base_width / 64), the inner channels, or raise `UserError`."""
    features = groups * (width * base_width // 64)
    if not features:
        raise UserError(
            f"base_width {base_width} leaves no channels at a width of {width}; allowed: at least"
            f" {-(-64 // width)}"
        )
    return features


class BasicBlock(nn.Module):
    """F: conv3x3(features, stride)-BN-ReLU-conv3x3(features)-BN, and attention if given.

    The features are floor(width * base_width / 64).
    """

    width: int
    stride: int
    norm: Norm
    conv: Conv
    attention: Callable[..., nn.Module] | None = None
    base_width: int = 64

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [batch, height, width, channels] to [batch, height / stride, .., features]."""
        features = inner_features(self.width, self.base_width, 1)
        x = self.conv(features, 3, stride=self.stride, name="conv1")(x)
        x = nn.relu(self.norm(name="norm1")(x))
        x = self.norm(name="norm2")(self.conv(features, 3, name="conv2")(x))
        return x if self.attention is None else self.attention(name="attention")(x)


class Bottleneck(nn.Module):
    """F: conv1x1(inner)-BN-ReLU-conv3x3(inner, stride)-BN-ReLU-conv1x1(4 width)-BN, and attention.

    Attributes:
      attention: makes the module that scales the output, if given (`attention.py`).
      groups: groups of the 3x3 convolution.
      base_width: inner is groups * floor(width * base_width / 64).
      inner_shortcut: if given, makes a module whose output, for the input of the 3x3 convolution,
        is added to the normalised output of the same convolution, if its stride is 1 (DS2Net).
      conv3x3: if given, makes the module in the place of the 3x3 convolution and of BN-ReLU after
        it, with the arguments `features`, `stride`, `groups`, `norm` and `conv` (SKNet).
    """

    width: int
    stride: int
    norm: Norm
    conv: Conv
    attention: Callable[..., nn.Module] | None = None
    groups: int = 1
    base_width: int = 64
    inner_shortcut: Callable[..., nn.Module] | None = None
    conv3x3: Callable[..., nn.Module] | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [batch, height, width, channels] to [batch, height / stride, .., 4 width]."""
        inner = inner_features(self.width, self.base_width, self.groups)
        x = z = nn.relu(self.norm(name="norm1")(self.conv(inner, 1, name="conv1")(x)))
        shape = {"stride": self.stride, "groups": self.groups}
        if self.conv3x3 is not None:
            x = self.conv3x3(inner, **shape, norm=self.norm, conv=self.conv, name="conv2")(x)
        else:
            x = self.norm(name="norm2")(self.conv(inner, 3, **shape, name="conv2")(x))
            if self.inner_shortcut is not None and self.stride == 1:
                x = x + self.inner_shortcut(name="inner_shortcut")(z)
            x = nn.relu(x)
        x = self.norm(name="norm3")(self.conv(EXPANSION * self.width, 1, name="conv3")(x))
        return x if self.attention is None else self.attention(name="attention")(x)


def has_bottleneck_options(groups: int, inner_shortcuts: bool) -> bool:
    """Return whether one of the options that basic blocks lack differs from its default."""
    return groups != 1 or inner_shortcuts


def choose_block(
    name: str, groups: int, base_width: int, inner_shortcuts: bool
) -> tuple[type[nn.Module], dict[str, int]]:
    """Return the class of "basic" or "bottleneck" blocks, and the options to make them with.

    Raise `UserError` for an unknown name, or options that basic blocks do not have.
    """
    check_whole_number("groups", groups, 1)
    check_whole_number("base_width", base_width, 1)
    block = choose("block", {"basic": BasicBlock, "bottleneck": Bottleneck}, name)
    if block is Bottleneck:
        return Bottleneck, {"groups": groups, "base_width": base_width}
    if has_bottleneck_options(groups, inner_shortcuts):
        raise UserError(
            "basic blocks have no groups or inner_shortcuts; these need a bottleneck, that is"
            " another depth than 18 and 34"
        )
    return block, {} if base_width == 64 else {"base_width": base_width}


class Projection(nn.Module):
    """The shortcut of the first block of a stage: conv1x1(features, stride)-BN."""

    features: int
    stride: int
    norm: Norm
    conv: Conv

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [batch, height, width, any] to [batch, height / stride, .., features]."""
        x = self.conv(self.features, 1, stride=self.stride, name="conv")(x)
        return self.norm(name="norm")(x)


# Blocks of the four stages by depth, where no formula gives them.
BASIC_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
_OTHER_BLOCKS = {152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}
_SMALL_DEPTHS = {"basic": tuple(BASIC_BLOCKS), "bottleneck": (14, 26, 38)}


def block_numbers(
    depth: int, stages: int = 4, *, blocks: Sequence[str] = ("basic", "bottleneck")
) -> tuple[int, ...]:
    """Return the number of blocks in each stage of a network.

    Args:
      depth: number of convolutions in the blocks, plus stem and classifier.
      stages: 4, or 3 of equal depth (ResNeXt-29).
      blocks: the kinds of blocks that the network can have. With both, four stages have the kind
        that has this depth, and three stages have bottlenecks.

    Raise `UserError` for a depth that no network has.
    """
    check_whole_number("depth", depth, 1)
    if stages not in (3, 4):
        raise UserError(f"stages must be 3 or 4, got {stages!r}")
    if stages == 3:
        return (layers_in_depth(depth, 3 * (3 if "bottleneck" in blocks else 2), 2),) * 3
    kind = "basic" if depth in BASIC_BLOCKS else "bottleneck"
    found = _four_stages(depth)
    if found and kind in blocks:
        return found
    depths = sorted(small for each in blocks for small in _SMALL_DEPTHS[each])
    allowed = ", ".join(map(str, depths))
    if "bottleneck" in blocks:
        allowed += ", and 3n + 2 from 41 on"
        depths.append(max(41, (depth - 1) // 3 * 3 + 2))
    nearest = min(depths, key=lambda each: abs(each - depth))
    wrong = f"has {kind} blocks, this network others" if found else "fits no network of this family"
    raise UserError(f"depth {depth} {wrong}; allowed: {allowed}, nearest {nearest}")


def _four_stages(depth: int) -> tuple[int, ...] | None:
    """Return the blocks of four stages, or None if no network has this depth."""
    if found := BASIC_BLOCKS.get(depth) or _OTHER_BLOCKS.get(depth):
        return found
    if depth in _SMALL_DEPTHS["bottleneck"]:
        return ((depth - 2) // 12,) * 4
    blocks, rest = divmod(depth - 2, 3)
    return None if depth < 41 or rest else (3, 4, blocks - 10, 3)
