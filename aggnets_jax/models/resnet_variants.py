"""ResNets for small images, and those whose blocks scale their outputs: SE and CBAM.

Three stages of basic blocks with 16, 32 and 64 channels, for small images: He et al., "Deep
Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385, Section 4.2.

    y_l = ReLU(F_l(y_{l-1}) + y_{l-1}),  F = conv3x3-BN-ReLU-conv3x3-BN

Shortcuts that widen have no parameters: they take every other position and are padded with zeros
(option A), by which the printed sizes come out. `padded=False` gives the projections of the
networks for ImageNet.

Attention: Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, arXiv 1709.01507, and Woo et
al., "CBAM: Convolutional Block Attention Module", ECCV 2018, arXiv 1807.06521.

    y_l = ReLU(attention(F_l(y_{l-1})) + y_{l-1})

The wrappers are in `layers.attention`; every other residual network takes them as its argument.
"""

from functools import partial

from aggnets_jax.models.registry import Printed, register_family
from aggnets_jax.models.resnet import resnet

_PRINTED = {
    f"resnet{depth}_cifar": Printed("Table 6", params, {"cifar10": error})
    for depth, params, error in [
        (20, "0.27M", 8.75),
        (32, "0.46M", 7.51),
        (44, "0.66M", 7.17),
        (56, "0.85M", 6.97),
        (110, "1.7M", 6.43),
    ]
}

register_family(
    "resnet_three_stages",
    partial(resnet, stages=3, block="basic", width=25, imagenet_stem=False, padded=True),
    pattern=r"resnet(?P<depth>\d+)_cifar",
    paper="Deep Residual Learning for Image Recognition, CVPR 2016, arXiv 1512.03385",
    printed=_PRINTED,
)

for _name, _attention, _error, _paper in [
    ("seresnet", "se", 23.29, "Squeeze-and-Excitation Networks, CVPR 2018, arXiv 1709.01507"),
    (
        "cbam_resnet",
        "cbam",
        22.66,
        "CBAM: Convolutional Block Attention Module, ECCV 2018, arXiv 1807.06521",
    ),
]:
    register_family(
        _name,
        partial(resnet, attention=_attention, imagenet_stem=True),
        pattern=rf"{_name}(?P<depth>\d+)",
        paper=_paper,
        printed={f"{_name}50": Printed("CBAM, Table 4", "28.1M", {"imagenet2012": _error})},
        input_shape=(224, 224, 3),
        num_classes=1000,
    )
