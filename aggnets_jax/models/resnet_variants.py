"""Families of residual networks: ResNet, ResNeXt, Wide ResNet-50-2, and blocks with attention.

The network is `resnet.ResNet`. Papers of the families:
* He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385. Networks
  of three stages for small images (Section 4.2) have basic blocks of 16, 32 and 64 channels. Their
  shortcuts that widen have no parameters: they take every other position and are padded with zeros
  (option A), which gives the printed sizes. `padded=False` gives the projections of ImageNet.
* Xie et al., "Aggregated Residual Transformations for Deep Neural Networks", CVPR 2017, arXiv
  1611.05431; Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016, arXiv 1605.07146.
* Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, arXiv 1709.01507, and Woo et al., "CBAM:
  Convolutional Block Attention Module", ECCV 2018, arXiv 1807.06521, with the wrappers of
  `layers.attention`: y_l = ReLU(attention(F_l(y_{l-1})) + y_{l-1}). Every other residual network
  has them as its argument `attention`.
"""

from functools import partial
from typing import Any

from aggnets_jax.models.registry import IMAGENET, register_family
from aggnets_jax.models.resnet import resnet

_RESNET = "Deep Residual Learning for Image Recognition, CVPR 2016, arXiv 1512.03385"
_RESNEXT = (
    "Aggregated Residual Transformations for Deep Neural Networks, CVPR 2017, arXiv 1611.05431"
)
_WIDE_RESNET = "Wide Residual Networks, BMVC 2016, arXiv 1605.07146"
_DEPTH, _GROUPS = r"(?P<depth>\d+)", r"_(?P<groups>\d+)x(?P<base_width>\d+)d"
_WIDENING, _CIFAR = r"_(?P<base_width>\d+)", r"_cifar_w(?P<width>\d+)"
_WIDTH = r"(?:_w(?P<width>\d+))?"
_LARGE = {"imagenet_stem": True}
_TIMES_64 = {"parse": {"base_width": lambda text: 64 * int(text)}}

# Name, pattern, arguments, arguments of `register_family`, and paper of a family. The ImageNet
# networks come before those of three stages, as resnext101_32x8d would fit both.
_BACKBONES = [
    ("resnet", rf"resnet{_DEPTH}", _LARGE, IMAGENET, _RESNET),
    ("resnet_cifar", rf"resnet{_DEPTH}{_CIFAR}", {}, {}, _RESNET),
    ("resnext", rf"resnext(?P<depth>50|101|152){_GROUPS}", _LARGE, IMAGENET, _RESNEXT),
    ("resnext_three_stages", rf"resnext{_DEPTH}{_GROUPS}{_WIDTH}", {"stages": 3}, {}, _RESNEXT),
    (
        "resnext_cifar",
        rf"resnext{_DEPTH}{_CIFAR}",
        {"groups": 32, "base_width": 4},
        {},
        _RESNEXT,
    ),
    (
        "wide_resnet",
        rf"wide_resnet{_DEPTH}{_WIDENING}",
        _LARGE,
        {**IMAGENET, **_TIMES_64},
        _WIDE_RESNET,
    ),
    (
        "wide_resnet_cifar",
        rf"wide_resnet{_DEPTH}{_WIDENING}{_CIFAR}",
        {},
        _TIMES_64,
        _WIDE_RESNET,
    ),
]


def register_backbones(prefix: str, *, paper: str | None = None, **fields: Any) -> None:
    """Register `_BACKBONES`, or families that differ from them in some arguments.

    Args:
      prefix: prefix of the names, in the place of "res".
      paper: paper of the families; default the paper of each.
      **fields: arguments of `resnet` that all of them have.
    """
    for name, pattern, arguments, registered, source in _BACKBONES:
        register_family(
            name.replace("res", prefix),
            partial(resnet, **arguments, **fields),
            pattern=pattern.replace("res", prefix),
            paper=paper or source,
            **registered,
        )


register_backbones("res")

register_family(
    "resnet_three_stages",
    partial(resnet, stages=3, block="basic", width=25, padded=True),
    pattern=rf"resnet{_DEPTH}_cifar",
    paper=_RESNET,
)
_SE = "Squeeze-and-Excitation Networks, CVPR 2018, arXiv 1709.01507"
_CBAM = "CBAM: Convolutional Block Attention Module, ECCV 2018, arXiv 1807.06521"
for _name, _attention, _pattern, _registered, _paper in [
    ("seresnet", "se", rf"seresnet{_DEPTH}", IMAGENET, _SE),
    ("seresnext", "se", rf"seresnext(?P<depth>50|101|152){_GROUPS}", IMAGENET, _SE),
    ("wide_seresnet", "se", rf"wide_seresnet{_DEPTH}{_WIDENING}", {**IMAGENET, **_TIMES_64}, _SE),
    ("cbam_resnet", "cbam", rf"cbam_resnet{_DEPTH}", IMAGENET, _CBAM),
]:
    register_family(
        _name,
        partial(resnet, attention=_attention, **_LARGE),
        pattern=_pattern,
        paper=_paper,
        **_registered,
    )
