"""DSNet and DS2Net: residual networks with dense, weighted, normalised shortcuts.

Paper: Zhang et al., "ResNet or DenseNet? Introducing Dense Shortcuts to ResNet", WACV 2021, arXiv
2010.12496.

    DSNet, eq. 12   y_l = ReLU(F_l(y_{l-1}) + sum_{i<l} W[l, i] N(y_i))
    DS2Net          and within F, where it keeps the size:  u = BN(conv3x3(z)) + w N(z)

    y_0 --F_1--(+)-ReLU-- y_1 --F_2--(+)-ReLU-- y_2 --F_3--(+)-ReLU-- y_3
     |          |          |          |          |          |
     N--------W[1,0]-------|--------W[2,0]-------|--------W[3,0]
                           N--------W[2,1]-------|--------W[3,1]
                                                 N--------W[3,2]

y_0 is the output of the block that opens the stage, whose own shortcut is projected as in ResNet. N
is group normalisation without scale and shift (at most 32 groups, at least 4 channels each),
computed once for each output. W and w weigh channels and are 1 at first. The network is
`resnet.ResNet` with the topology "dense" and the aggregation "normalised_sum" of shortcuts, see
`layers.shortcuts`; other topologies give DSNets with fewer shortcuts.

Where the paper is silent or misprinted:
* The number of extra parameters, less than 0.15 % of ResNet-50, implies that W belongs to pairs of
  layers and channels within a stage, and that 3x3 convolutions at stride 2 have no inner shortcut.
* Eq. 14 has the coefficients 1, 1, 2, ..., l; eq. 13 unrolled gives 1, 1, 2, 4, ..., 2^(l-1).
* "DSNeXt-29, 6x64d" and "DS2NeXt-29, 6x64d" are printed with the size of 8x64d. The errors of Table
  6 belong to one of the two sizes, so both are listed with them.
* Tables 2 and 3 print different errors of the networks of 101 layers.
"""

from functools import partial

from aggnets_jax.models.registry import IMAGENET, register_family
from aggnets_jax.models.resnet import resnet
from aggnets_jax.models.resnet_variants import register_backbones

DSNET = "ResNet or DenseNet? Introducing Dense Shortcuts to ResNet, WACV 2021, arXiv 2010.12496"
DENSE_SHORTCUTS = {"topology": "dense", "aggregation": "normalised_sum"}

register_backbones("ds", paper=DSNET, **DENSE_SHORTCUTS)
register_backbones("ds2", paper=DSNET, **DENSE_SHORTCUTS, inner_shortcuts=True)

# Eq. 13, dense shortcuts that are neither normalised nor weighted, and the other rows of Table 1.
_DENSE, _SMALL = r"resnet(?P<depth>\d+)_dense", r"dsnet(?P<depth>\d+)_cifar_w(?P<width>\d+)"
for _name, _pattern, _fields, _registered in [
    ("resnet_dense", _DENSE, {"topology": "dense", "imagenet_stem": True}, IMAGENET),
    ("resnet_dense_cifar", rf"{_DENSE}_cifar_w(?P<width>\d+)", {"topology": "dense"}, {}),
    ("dsnet_cifar_a", rf"{_SMALL}_a", {**DENSE_SHORTCUTS, "shortcut_sources": "blocks"}, {}),
    ("dsnet_cifar_ln", rf"{_SMALL}_ln", {**DENSE_SHORTCUTS, "shortcut_norm": "layer"}, {}),
    ("dsnet_cifar_bn", rf"{_SMALL}_bn", {**DENSE_SHORTCUTS, "shortcut_norm": "batch"}, {}),
    ("dsnet_cifar_in", rf"{_SMALL}_in", {**DENSE_SHORTCUTS, "shortcut_norm": "instance"}, {}),
    ("dsnet_cifar_nonorm", rf"{_SMALL}_nonorm", {**DENSE_SHORTCUTS, "shortcut_norm": "none"}, {}),
    (
        "dsnet_cifar_noweight",
        rf"{_SMALL}_noweight",
        {**DENSE_SHORTCUTS, "shortcut_weights": False},
        {},
    ),
]:
    register_family(_name, partial(resnet, **_fields), pattern=_pattern, paper=DSNET, **_registered)
