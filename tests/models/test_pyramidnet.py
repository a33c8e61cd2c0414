"""PyramidNet against straight-line code, its sizes, and shortcuts from several blocks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax import create_model
from tests.models.straight_line import assert_straight_line, halves
from tests.models.test_counts import info
from tests.models.variables import model_info
from tests.patterns import one_line_error


def widen(x, features):
    new = np.zeros((*x.shape[:3], features - x.shape[3]), x.dtype)
    return np.concatenate([x, new], axis=3)


def pyramid(net, x, blocks, bottleneck, sources=None):
    """Blocks (path, features, stride); `sources` says which outputs of its stage a block adds."""
    x = net.norm(net.conv(x, "stem_conv"), "stem_norm")
    outputs = [x]
    for path, features, stride in blocks:
        y = net.norm(x, f"{path}/norm1")
        if bottleneck:
            y = net.norm_relu(net.conv(y, f"{path}/conv1"), f"{path}/norm2")
            y = net.norm_relu(net.conv(y, f"{path}/conv2", stride), f"{path}/norm3")
            y = net.norm(net.conv(y, f"{path}/conv3"), f"{path}/norm4")
        else:
            y = net.norm_relu(net.conv(y, f"{path}/conv1", stride), f"{path}/norm2")
            y = net.norm(net.conv(y, f"{path}/conv2"), f"{path}/norm3")
        assert y.shape[3] == features
        if stride == 2:
            x = widen(halves(x).mean(-1), features) + y
            outputs = [x]
        else:
            read = outputs if sources == "all" else outputs[-1:]
            x = y + sum(widen(output, features) for output in read)
            outputs.append(x)
    x = net.norm_relu(x, "head_norm")
    return net.linear(x.mean((1, 2)), "classifier")


# floor(16 + k * 10 / 9), and four times floor(16 + k * 7 / 3).
BASIC = [
    *((f"stage1/layer{i}", width, 1) for i, width in [(1, 17), (2, 18), (3, 19)]),
    ("stage2_opening", 20, 2),
    ("stage2/layer1", 21, 1),
    ("stage2/layer2", 22, 1),
    ("stage3_opening", 23, 2),
    ("stage3/layer1", 24, 1),
    ("stage3/layer2", 26, 1),
]
BOTTLENECKS = [("stage1/layer1", 72, 1), ("stage2_opening", 80, 2), ("stage3_opening", 92, 2)]


@pytest.mark.parametrize(
    ("name", "blocks", "topology", "train"),
    [
        ("pyramidnet_bottleneck11_a7", BOTTLENECKS, "plain", True),
        ("pyramidnet_bottleneck11_a7", BOTTLENECKS, "plain", False),
        ("pyramidnet20_a10", BASIC, "dense", False),
        pytest.param("pyramidnet20_a10", BASIC, "plain", True, marks=pytest.mark.slow),
    ],
)
def test_a_network_is_blocks_and_padded_shortcuts(name, blocks, topology, train):
    reference = functools.partial(
        pyramid,
        blocks=blocks,
        bottleneck="bottleneck" in name,
        sources="all" if topology == "dense" else None,
    )
    assert_straight_line(name, {"topology": topology}, 8, reference, train)


# With 10 classes (1000 for ImageNet): parameters, multiply-adds, channels at the end.
SIZES = {
    "pyramidnet110_a48": (1_739_730, 393_528_448, 64),
    "pyramidnet110_a84": (3_855_054, 757_846_504, 100),
    "pyramidnet110_a270": (28_485_477, 4_717_983_724, 286),
    "pyramidnet_bottleneck164_a270": (27_216_021, 4_569_837_040, 1144),
    "pyramidnet_bottleneck200_a240": (26_617_000, 4_484_789_888, 1024),
    "pyramidnet_bottleneck236_a220": (26_806_528, 4_538_767_904, 944),
    "pyramidnet_bottleneck272_a200": (26_049_562, 4_446_852_416, 864),
    "pyramidnet_imagenet200_a300": (62_152_030, 16_465_774_157, 1456),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n == "pyramidnet110_a48" else pytest.mark.slow) for n in SIZES],
)
def test_sizes(name):
    params, macs, features = SIZES[name]
    counted = info(name, None)
    assert (counted.params, counted.macs) == (params, macs)
    assert create_model(name).widths[-1] == features


def test_basic_blocks_of_any_depth_by_arithmetic():
    counted = info("pyramidnet8_a30", 10)
    # Stem, three blocks of 26, 36 and 46 channels, head.
    expected = 27 * 16 + 2 * 16
    for before, width in [(16, 26), (26, 36), (36, 46)]:
        expected += 9 * before * width + 9 * width**2 + 2 * before + 4 * width
    assert counted.params == expected + 2 * 46 + 46 * 10 + 10


def test_widths_are_rounded_down():
    assert create_model("pyramidnet110_a84").widths[:4] == (17, 19, 20, 22)
    assert create_model("pyramidnet_bottleneck11_a7").widths == (72, 80, 92)
    assert create_model("pyramidnet_imagenet50_a100").widths[0] == 4 * 70


def test_imagenet_endpoints():
    model = create_model("pyramidnet_imagenet50_a100")
    images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    _, endpoints = jax.eval_shape(
        lambda key, x: model.init_with_output(key, x)[0], jax.random.key(0), images
    )
    assert {name: value.shape for name, value in endpoints.items()} == {
        "stem": (2, 16, 16, 64),
        "stage1": (2, 16, 16, 4 * 82),
        "stage2": (2, 8, 8, 4 * 107),
        "stage3": (2, 4, 4, 4 * 145),
        "stage4": (2, 2, 2, 4 * 164),
        "pre_logits_2d": (2, 2, 2, 4 * 164),
        "pre_logits": (2, 4 * 164),
        "logits": (2, 1000),
    }


@pytest.mark.parametrize(
    ("name", "overrides", "said"),
    [
        ("pyramidnet111_a48", {}, "6n + 2, nearest 110"),
        ("pyramidnet_bottleneck111_a48", {}, "9n + 2, nearest 110"),
        ("pyramidnet_imagenet110_a48", {}, "no network of depth 110"),
        ("pyramidnet110_a48", {"alpha": -1}, "alpha must be"),
        ("pyramidnet110_a48", {"aggregation": "concat"}, "allowed: padded_sum, sum, mean"),
        ("pyramidnet110_a48", {"aggregation": "padded"}, "nearest: padded_sum"),
        ("pyramidnet110_a48", {"topology": ("plain", "plain")}, "2 values for 3 stages"),
        ("pyramidnet", {"depth": 110}, "needs the argument 'alpha'"),
    ],
)
def test_numbers_that_fit_no_network(name, overrides, said):
    assert said in one_line_error(create_model, name, **overrides)


def test_a_sum_of_several_widths_is_told():
    said = one_line_error(model_info, "pyramidnet20_a10", topology="dense", aggregation="sum")
    assert "outputs of one shape" in said
    constant = model_info("pyramidnet20_a0", topology="dense", aggregation="sum")
    assert constant.params == model_info("pyramidnet20_a0").params
