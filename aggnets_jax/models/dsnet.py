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
`shortcuts.py`; other topologies give DSNets with fewer shortcuts.

Where the paper is silent or the print is wrong:
* That W belongs to pairs of layers and channels within a stage, and that the 3x3 convolutions at
  stride 2 have no inner shortcut, follows from the extra parameters, less than 0.15 % of ResNet-50.
* Eq. 14 has the coefficients 1, 1, 2, ..., l; eq. 13 unrolled gives 1, 1, 2, 4, ..., 2^(l-1).
* "DSNeXt-29, 6x64d" and "DS2NeXt-29" are printed with the size of ResNeXt-29, 8x64d.
* Tables 2 and 3 print different errors of the networks of 101 layers.
"""

from functools import partial

from aggnets_jax.models.registry import Printed, register_family
from aggnets_jax.models.resnet import register_backbones, resnet

DSNET = "ResNet or DenseNet? Introducing Dense Shortcuts to ResNet, WACV 2021, arXiv 2010.12496"
DENSE_SHORTCUTS = {"topology": "dense", "aggregation": "normalised_sum"}

_EIGHT = "printed is the size of ResNeXt-29, 8x64d"
_PRINTED = {
    name: Printed(table, params, errors, note=note)
    for name, table, params, errors, note in [
        ("dsnet50", "Table 7", "25.6M", {"imagenet2012": 22.49}, None),
        ("ds2net50", "Table 7", "25.6M", {"imagenet2012": 22.03}, None),
        ("dsnet26_cifar_w25", "Table 3", None, {"cifar100": 26.80}, None),
        ("dsnet38_cifar_w25", "Table 3", None, {"cifar100": 25.59}, None),
        ("dsnet50_cifar_w25", "Table 2", None, {"cifar10": 5.95, "cifar100": 24.12}, None),
        ("dsnet50_cifar_w50", "Table 4", None, {"cifar100": 21.59}, None),
        ("dsnet50_cifar_w100", "Table 2", None, {"cifar10": 4.54, "cifar100": 19.95}, None),
        ("dsnet77_cifar_w25", "Table 3", None, {"cifar100": 23.95}, None),
        (
            "dsnet101_cifar_w25",
            "Table 2",
            None,
            {"cifar10": 5.82, "cifar100": 23.94},
            "23.63 in Table 3",
        ),
        ("ds2net26_cifar_w25", "Table 3", None, {"cifar100": 26.30}, None),
        ("ds2net38_cifar_w25", "Table 3", None, {"cifar100": 25.30}, None),
        ("ds2net50_cifar_w25", "Table 2", None, {"cifar10": 5.77, "cifar100": 23.72}, None),
        ("ds2net50_cifar_w50", "Table 4", None, {"cifar100": 21.02}, None),
        ("ds2net50_cifar_w100", "Table 2", None, {"cifar10": 4.33, "cifar100": 19.00}, None),
        ("ds2net77_cifar_w25", "Table 3", None, {"cifar100": 23.55}, None),
        (
            "ds2net101_cifar_w25",
            "Table 2",
            None,
            {"cifar10": 5.68, "cifar100": 23.61},
            "23.40 in Table 3",
        ),
        ("wide_dsnet50_2_cifar_w25", "Table 4", None, {"cifar100": 22.00}, None),
        ("wide_ds2net50_2_cifar_w25", "Table 4", None, {"cifar100": 21.58}, None),
        ("dsnext50_cifar_w25", "Table 5", None, {"cifar100": 22.98}, None),
        ("dsnext50_cifar_w50", "Table 5", None, {"cifar100": 19.95}, None),
        ("dsnext50_cifar_w100", "Table 5", None, {"cifar100": 18.58}, None),
        ("ds2next50_cifar_w25", "Table 5", None, {"cifar100": 22.58}, None),
        ("ds2next50_cifar_w50", "Table 5", None, {"cifar100": 19.51}, None),
        ("ds2next50_cifar_w100", "Table 5", None, {"cifar100": 18.24}, None),
        ("dsnext29_6x64d", "Table 6", "34.4M", {"cifar100": 16.85}, _EIGHT),
        ("dsnext29_8x64d", "Table 6", None, {}, "its size is printed for 6x64d"),
        ("ds2next29_6x64d", "Table 6", "34.4M", {"cifar100": 16.39}, _EIGHT),
        ("ds2next29_8x64d", "Table 6", None, {}, "its size is printed for 6x64d"),
        ("resnet50_dense", "Table 1", None, {}, "printed on CIFAR, at a quarter of the width"),
        ("resnet50_dense_cifar_w25", "Table 1", None, {"cifar100": 26.33}, None),
        ("dsnet50_cifar_w25_a", "Table 1", None, {"cifar100": 25.23}, None),
        ("dsnet50_cifar_w25_ln", "Table 1", None, {"cifar100": 24.43}, "printed as width 0.2"),
        ("dsnet50_cifar_w25_bn", "Table 1", None, {"cifar100": 24.90}, None),
        ("dsnet50_cifar_w25_in", "Table 1", None, {"cifar100": 28.11}, None),
        ("dsnet50_cifar_w25_nonorm", "Table 1", None, {"cifar100": 26.26}, None),
        ("dsnet50_cifar_w25_noweight", "Table 1", None, {"cifar100": 25.85}, None),
    ]
}

register_backbones("ds", _PRINTED, paper=DSNET, **DENSE_SHORTCUTS)
register_backbones("ds2", _PRINTED, paper=DSNET, **DENSE_SHORTCUTS, inner_shortcuts=True)

# Eq. 13, dense shortcuts that are neither normalised nor weighted, and the other rows of Table 1.
register_family(
    "resnet_dense",
    partial(resnet, imagenet_stem=True, topology="dense"),
    pattern=r"resnet(?P<depth>\d+)_dense",
    paper=DSNET,
    printed=_PRINTED,
    input_shape=(224, 224, 3),
    num_classes=1000,
)
register_family(
    "resnet_dense_cifar",
    partial(resnet, imagenet_stem=False, topology="dense"),
    pattern=r"resnet(?P<depth>\d+)_dense_cifar_w(?P<width>\d+)",
    paper=DSNET,
    printed=_PRINTED,
)
for _suffix, _fields in {
    "a": {"shortcut_sources": "blocks"},
    "ln": {"shortcut_norm": "layer"},
    "bn": {"shortcut_norm": "batch"},
    "in": {"shortcut_norm": "instance"},
    "nonorm": {"shortcut_norm": "none"},
    "noweight": {"shortcut_weights": False},
}.items():
    register_family(
        f"dsnet_cifar_{_suffix}",
        partial(resnet, imagenet_stem=False, **DENSE_SHORTCUTS, **_fields),
        pattern=rf"dsnet(?P<depth>\d+)_cifar_w(?P<width>\d+)_{_suffix}",
        paper=DSNET,
        printed=_PRINTED,
    )
