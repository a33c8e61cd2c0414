"""Res2Net and Res2NeXt: scales within a block against straight-line code, and sizes."""

import functools

import numpy as np
import pytest

from aggnets_jax import create_model
from aggnets_jax.connectivity.topology import make_topology
from aggnets_jax.errors import UserError
from aggnets_jax.models.registry import find_family, find_printed
from aggnets_jax.models.res2net import scale_wiring
from tests.marks import mostly_slow
from tests.models import residual_numpy as layers
from tests.models.residual import assert_is, parameters, shapes

TINY = {"depth": None, "stage_depths": (2, 2), "width": 25, "base_width": 32, "scale": 4}


def average_pool(x, stride):
    """Over 3x3 positions, those of the padding counted as zeros."""
    _, height, width, _ = x.shape
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [x[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return sum(shifted)[:, ::stride, ::stride] / 9


def block(part, x, stride, *, groups=1, scale=4, pool=True, dense=False):
    opening = x.shape[-1] != part["conv3"].params["kernel"].shape[-1]
    x = layers.relu(layers.conv_norm(part, 1, x))
    splits, scales = np.split(x, scale, axis=-1), []
    convolved = scale if opening and not pool else scale - 1
    for i in range(1, convolved + 1):
        read = splits[i - 1]
        if not opening:
            read = read + sum(scales if dense else scales[-1:])
        k = part["scales"][f"layer{i}"]
        y = layers.batch_norm(k["norm"], layers.conv(k["conv"], read, stride, groups))
        scales.append(layers.relu(y))
    if convolved < scale:
        scales.append(average_pool(splits[-1], stride) if opening else splits[-1])
    return layers.conv_norm(part, 3, np.concatenate(scales, axis=-1))


def network(train=False, **keywords):
    return lambda variables, images: layers.residual_network(
        variables, images, (2, 2), block=functools.partial(block, **keywords), train=train
    )


SMALL = {"imagenet_stem": False, **TINY}


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_res2net_is_eq_1(train):
    assert_is("res2net", network(train), train=train, **SMALL)


def test_res2next_convolves_all_splits_of_an_opening_block():
    assert_is("res2next_three_stages", network(groups=2, pool=False), **TINY, groups=2)


def test_scales_may_read_all_before_them():
    assert_is("res2net", network(dense=True), **SMALL, scale_topology="dense")


def test_wiring_of_four_splits():
    """Splits are 0..3, scales 4..6; the last split is passed on."""
    wiring = scale_wiring(make_topology("plain", 3), 4)
    assert wiring.sources[3:] == ((0,), (1, 4), (2, 5), (4, 5, 6, 3))
    everything = scale_wiring(make_topology("dense", 2), 2)
    assert everything.sources[1:] == ((0,), (1, 2), (2, 3))


def test_dense_shortcuts_between_blocks():
    stage = shapes("dsres2net50", size=32)["stage3"]
    assert [stage[f"weights{n}"]["weights"].shape for n in range(1, 6)] == [
        (n, 1024) for n in range(1, 6)
    ]
    assert set(stage["layer1"]) == {"conv1", "norm1", "scales", "conv3", "norm3"}
    assert set(stage["layer1"]["scales"]) == {"layer1", "layer2", "layer3"}


RELEASED = {
    "res2net50_48w_2s": 25_287_304,
    "res2net50_26w_4s": 25_699_120,
    "res2net50_14w_8s": 25_059_816,
    "res2net50_26w_6s": 37_051_448,
    "res2net50_26w_8s": 48_403_776,
    "res2net101_26w_4s": 45_206_688,
    "res2next50_8x4d_4s": 24_671_464,
    "dsres2net50": 25_699_120 + 25_344,
}
CIFAR_10 = {
    "res2next29_6x24d_4s": 24_268_682,
    "res2next29_8x25d_4s": 33_812_986,
    "res2next29_6x24d_6s": 36_709_130,
}


@mostly_slow("name", RELEASED | CIFAR_10, quick=(0, 8))
def test_sizes(name):
    assert parameters(name, size=32) == (RELEASED | CIFAR_10)[name]


PRINTED = {
    "res2net50_48w_2s": "25.29M",
    "res2net50_26w_4s": "25.70M",
    "res2net50_14w_8s": "25.06M",
    "res2net50_26w_6s": "37.05M",
    "res2net50_26w_8s": "48.40M",
    "res2net101_26w_4s": "45.21M",
    "res2next50_8x4d_4s": "24.67M",
    "res2next29_6x24d_4s": "24.3M",
    "res2next29_8x25d_4s": "33.8M",
    "res2next29_6x24d_6s": "36.7M",
}


@pytest.mark.parametrize("name", PRINTED)
def test_printed_sizes(name):
    decimals = len(PRINTED[name][:-1].partition(".")[2])
    assert f"{(RELEASED | CIFAR_10)[name] / 1e6:.{decimals}f}M" == PRINTED[name]


def test_attention_scales_the_block():
    layer = shapes("seres2net", **{**SMALL, "width": 100})["stage1"]["layer1"]
    assert layer["attention"]["channels"]["squeeze"]["kernel"].shape == (256, 16)


def test_names_and_prints():
    assert find_family("res2next50_8x4d_4s").name == "res2next"
    assert find_printed("dsres2net50").error == {"imagenet2012": 21.61}


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("res2net50_26w_1s", {}, "scale must be a whole number of at least 2"),
        ("res2net34_26w_4s", {}, "depth 34 has basic blocks"),
        ("res2net34_26w_4s", {}, "nearest 38"),
        ("res2net18_26w_4s", {}, "nearest 14"),
        ("res2net19_26w_4s", {}, "allowed: 14, 26, 38, and 3n + 2 from 41 on, nearest 14"),
        ("res2net51_26w_4s", {}, "nearest 50"),
        ("res2net50_26w_4s", {"scale_topology": "densed"}, "nearest: dense"),
        ("res2net50_26w_4s", {"inner_shortcuts": True}, "has no argument"),
        ("res2net", {"scale": 4, "base_width": 26}, "needs the argument 'depth'"),
    ],
)
def test_refusals_are_one_line(name, overrides, message):
    with pytest.raises(UserError) as caught:
        create_model(name, **overrides)
    assert message in str(caught.value) and "\n" not in str(caught.value)
