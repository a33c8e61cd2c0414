import pytest

from aggnets_jax.detection import create_detector, detector_info, list_detectors
from aggnets_jax.detection.registry import NAMED
from aggnets_jax.errors import UserError
from tests.models.variables import starting_from_zeros

# Scalars, trainable ones, operations at 1280x800 by kind; 81 outputs, as HCGNet, Table 4.
COUNTS = {
    "mask_rcnn_resnet50_fpn": (
        (44_400_693, 44_175_349),
        {
            "conv": 260_446_090_240,
            "conv_bias": 113_116_660,
            "linear": 14_308_352_000,
            "norm": 453_632_000,
            "relu": 238_284_800,
            "pool": 16_384_000,
        },
        275_575_859_700,
    ),
    "mask_rcnn_hcgnet_b_fpn": (
        (32_207_466, 32_094_353),
        {
            "conv": 215_413_988_200,
            "conv_bias": 114_223_075,
            "linear": 14_308_352_000,
            "norm": 462_590_870,
            "relu": 42_188_800,
            "pool": 67_636_000,
        },
        230_408_978_945,
    ),
    "faster_rcnn_resnet50_fpn": (
        (41_757_156, 41_531_812),
        {
            "conv": 192_026_096_640,
            "conv_bias": 66_625_460,
            "linear": 14_308_352_000,
            "norm": 453_632_000,
            "relu": 198_144_000,
            "pool": 16_384_000,
        },
        207_069_234_100,
    ),
}


def slow(names, quick):
    return [pytest.param(n, marks=() if n in quick else pytest.mark.slow) for n in names]


@pytest.mark.parametrize("name", slow(COUNTS, ["mask_rcnn_resnet50_fpn"]))
def test_counts_are_those_of_the_papers_to_the_digit(name):
    params, operations, total = COUNTS[name]
    with starting_from_zeros():
        info = detector_info(name, conventions="legacy")
    assert (info.params, info.trainable) == params
    assert info.operations == operations
    assert sum(info.operations.values()) == total
    assert sum(part.params for part in info.parts.values()) == info.params


@pytest.mark.slow
def test_counts_of_faster_rcnn_with_hcgnet_b():
    with starting_from_zeros():
        info = detector_info("faster_rcnn_fpn", "hcgnet_b")
    assert (info.params, info.trainable) == (29_563_929, 29_450_816)


@pytest.mark.slow
def test_conventions_differ_in_the_background_s_outputs():
    sizes = {"num_classes": 90, "image_size": (64, 64)}
    with starting_from_zeros():
        tv = [
            detector_info(k, "resnet50", conventions="torchvision", **sizes).params
            for k in ("mask_rcnn_fpn", "faster_rcnn_fpn")
        ]
        center = detector_info("faster_rcnn_fpn", "resnet50", conventions="center", **sizes)
    assert tv == [44_454_513, 41_808_406]
    assert tv[1] - center.params == 4 * 1025


@pytest.mark.parametrize("name", slow(NAMED, ["faster_rcnn_dsnet50_fpn"]))
def test_the_papers_detectors_are_made_of_their_backbones(name):
    named, detector = NAMED[name], create_detector(name)
    assert detector.num_classes == 80
    assert detector.masks == name.startswith("mask")
    assert detector.conventions.name == named.conventions
    assert detector.strides == (4, 8, 16, 32, 64)
    assert name in list_detectors()


@pytest.mark.parametrize(
    ("arguments", "fields", "message"),
    [
        (["mask_rcnn_fpm"], {}, "unknown detector 'mask_rcnn_fpm'; nearest: mask_rcnn_fpn"),
        (["mask_rcnn_fpn"], {}, "needs the argument 'backbone'"),
        (["mask_rcnn_fpn", "resnet51"], {}, "depth 51"),
        (["mask_rcnn_fpn", "resnet18", 0], {}, "num_classes"),
        (["mask_rcnn_fpn", "resnet18"], {"conventions": "centre"}, "nearest: center"),
        (["mask_rcnn_fpn", "resnet18"], {"mots": 9}, "has no argument 'mots'; nearest: most"),
        (["mask_rcnn_fpn", "resnet18"], {"roi_method": "x"}, "unknown method of RoIAlign 'x'"),
        (["mask_rcnn_fpn", "resnet18"], {"sizes": {"hiden": 3}}, "'hiden'; nearest: hidden"),
        (["mask_rcnn_fpn", "resnet18"], {"frozen": 9}, "frozen must be .* at most 4, got 9"),
        (["mask_rcnn_fpn", "resnet18"], {"limits": [{}]}, "are .training, evaluation., got .{}."),
    ],
)
def test_wrong_arguments_are_named(arguments, fields, message):
    with pytest.raises(UserError, match=message):
        create_detector(*arguments, **fields)
