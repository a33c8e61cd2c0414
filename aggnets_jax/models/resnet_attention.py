"""ResNets whose blocks scale what they computed: SE and CBAM.

Papers: Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, arXiv 1709.01507, and Woo et al.,
"CBAM: Convolutional Block Attention Module", ECCV 2018, arXiv 1807.06521.

    y_l = ReLU(attention(F_l(y_{l-1})) + y_{l-1})

The wrappers are in `attention`; every other residual network takes them as its argument, too.
"""

from functools import partial

from aggnets_jax.models.registry import Printed, register_family
from aggnets_jax.models.resnet import resnet

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
