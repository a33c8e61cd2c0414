"""EfficientNet-B0 against straight-line code, with and without micro-dense blocks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from aggnets_jax import create_model
from aggnets_jax.layers import common
from aggnets_jax.models.efficientnet import MBConv
from tests.models.straight_line import Layers, assert_straight_line, jit
from tests.models.test_counts import info
from tests.models.test_micro_dense import micro_dense
from tests.models.test_pyramidnet import widen
from tests.patterns import one_line_error


def swish(x):
    return x / (1 + np.exp(-x))


def mbconv(net, x, path, expansion, stride):
    """F: the sizes of kernels and widths are those of the parameters."""
    features, y = x.shape[3], x
    if expansion > 1:
        y = swish(net.norm(net.conv(y, f"{path}/expand_conv"), f"{path}/expand_norm"))
    assert y.shape[3] == expansion * features
    y = net.conv(y, f"{path}/depthwise_conv", stride, groups=expansion * features)
    y = swish(net.norm(y, f"{path}/depthwise_norm"))
    gate = net.conv(y.mean((1, 2), keepdims=True), f"{path}/squeeze_excite/reduce")
    assert gate.shape[3] == features // 4
    gate = net.conv(swish(gate), f"{path}/squeeze_excite/expand")
    y = y / (1 + np.exp(-gate))
    return net.norm(net.conv(y, f"{path}/project_conv"), f"{path}/project_norm")


def b0(net, x, compressed):
    """Table 1 of EfficientNet; `compressed` is c_0 of the micro-dense blocks by their numbers."""
    x = swish(net.norm(net.conv(x, "stem_conv", 2), "stem_norm"))
    rows = [
        (1, 1, 16, 1),
        (6, 2, 24, 2),
        (6, 2, 40, 2),
        (6, 2, 80, 3),
        (6, 1, 112, 3),
        (6, 2, 192, 4),
        (6, 1, 320, 1),
    ]
    number = 0
    for i, (expansion, stride, features, blocks) in enumerate(rows, start=1):
        for block in range(blocks):
            number += 1
            path = f"stage{i}/layer{block}" if block else f"stage{i}_opening"
            if number in compressed:
                c = compressed[number]
                widths = [2 * c, 3 * c, 4 * c]
                y = micro_dense(net, x, path, features, 1, c, widths, [2, 3, 4])
                x = widen(x, features) + y
            elif block:
                x = x + mbconv(net, x, path, expansion, 1)
            else:
                x = mbconv(net, x, path, expansion, stride)
    x = swish(net.norm(net.conv(x, "head_conv"), "head_norm"))
    return net.linear(x.mean((1, 2)), "classifier")


@pytest.mark.slow
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    ("name", "compressed"),
    [("efficientnet_b0", {}), ("micro_dense_efficientnet_b0", {8: 28, 9: 28, 10: 36})],
)
def test_a_network_is_its_table(name, compressed, train):
    reference = functools.partial(b0, compressed=compressed)
    assert_straight_line(name, {}, 64, reference, train)


def mbconv_of(features, expansion, kernel_size, stride, train=True, dtype=jnp.float32):
    return MBConv(
        features,
        expansion,
        kernel_size,
        stride,
        norm=common.batch_norm(train=train, dtype=dtype),
        conv=functools.partial(common.conv, dtype=dtype),
    )


@pytest.mark.parametrize(
    ("expansion", "kernel_size", "stride", "train"),
    [(1, 3, 1, True), (6, 5, 2, True), (6, 3, 2, False)],
)
def test_mbconv(expansion, kernel_size, stride, train):
    with jax.enable_x64(True):
        unit = mbconv_of(6, expansion, kernel_size, stride, train, jnp.float64)
        images = np.random.default_rng(1).standard_normal((2, 8, 8, 8))
        shapes = jax.eval_shape(unit.init, jax.random.key(0), images)
        random = np.random.default_rng(2)
        variables = jax.tree.map(lambda x: random.uniform(0.5, 1.0, x.shape) - 0.4, shapes)

        @jit
        def ours(variables, images):
            return unit.apply(variables, images, mutable=["batch_stats"])[0]

        output = ours(variables, images)
    net = Layers({kind: {"block": tree} for kind, tree in variables.items()}, train)
    expected = mbconv(net, images, "block", expansion, stride)
    assert output.shape == (2, 8 // stride, 8 // stride, 6)
    np.testing.assert_allclose(output, expected, rtol=1e-9, atol=1e-9)


# Parameters and multiply-adds.
SIZES = {
    "efficientnet_b0": (5_288_548, 385_814_752),
    "micro_dense_efficientnet_b0": (5_290_536, 401_851_488),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name):
    counted = info(name, 1000)
    assert (counted.params, counted.macs) == SIZES[name]


def abstract(model, train=False):
    images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    return jax.eval_shape(functools.partial(model.init_with_output, train=train), keys, images)


def test_endpoints_in_bfloat16():
    (logits, endpoints), variables = abstract(create_model("efficientnet_b0", dtype=jnp.bfloat16))
    assert {name: value.shape[1:] for name, value in endpoints.items()} == {
        "stem": (32, 32, 32),
        "stage1": (32, 32, 16),
        "stage2": (16, 16, 24),
        "stage3": (8, 8, 40),
        "stage4": (4, 4, 80),
        "stage5": (4, 4, 112),
        "stage6": (2, 2, 192),
        "stage7": (2, 2, 320),
        "pre_logits_2d": (2, 2, 1280),
        "pre_logits": (1280,),
        "logits": (1000,),
    }
    assert logits.dtype == jnp.float32
    assert endpoints["stage7"].dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize(
    ("name", "openings"),
    [("efficientnet_b0", ()), ("micro_dense_efficientnet_b0", (9,))],
)
def test_branches_are_dropped_linearly_in_the_number_of_the_block(name, openings):
    rates = []

    def record(call, args, kwargs, context):
        if isinstance(context.module, nn.Dropout):
            rates.append((context.module.rate, context.module.broadcast_dims))
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        abstract(create_model(name, drop_connect=0.2, dropout=0.3), train=True)
    # Blocks that open a stage have no branch, but for the micro-dense one.
    numbers = [n for n in range(1, 17) if n not in (1, 2, 4, 6, 9, 12, 16) or n in openings]
    *branches, last = rates
    assert last == (0.3, ())
    assert {dims for _, dims in branches} == {(1, 2, 3)}
    np.testing.assert_allclose([rate for rate, _ in branches], [0.0125 * (n - 1) for n in numbers])


def test_a_dropped_branch_is_dropped_for_a_whole_image():
    x = jnp.ones((4000, 2, 2, 3))
    drop = common.branch_dropout(0.25, train=True)
    y = np.asarray(drop.apply({}, x, rngs={"dropout": jax.random.key(0)}))
    first = y[:, :1, :1, :1]
    assert (y == first).all()
    np.testing.assert_allclose(np.unique(first), [0, 4 / 3], rtol=1e-6)
    assert (first == 0).mean() == pytest.approx(0.25, abs=0.03)
    assert (common.branch_dropout(0.25, train=False).apply({}, x) == x).all()


def test_convolutions_are_drawn_as_he_has_it():
    unit = mbconv_of(128, 6, 5, 1)
    params = jit(unit.init)(jax.random.key(0), jnp.zeros((1, 4, 4, 64)))["params"]
    for name in ("expand_conv", "depthwise_conv", "project_conv"):
        kernel = params[name]["kernel"]
        fan_out = np.prod(kernel.shape[:2]) * kernel.shape[3]
        error = 4 / np.sqrt(kernel.size)
        assert abs(kernel.std() * np.sqrt(fan_out / 2) - 1) < error, name
    gate = params["squeeze_excite"]
    assert gate["reduce"]["kernel"].shape == (1, 1, 384, 16)
    assert not np.any(gate["reduce"]["bias"]) and not np.any(gate["expand"]["bias"])


def test_which_blocks_are_replaced():
    model = create_model("micro_dense_efficientnet_b0", 10, replaced=[2, 16], num_layers=2)
    _, variables = abstract(model)
    params = variables["params"]
    kernels = traverse_util.flatten_dict(params, sep="/")
    dense = {path.removesuffix("/output_conv/kernel") for path in kernels if "output_conv" in path}
    assert dense == {"stage2_opening", "stage7_opening"}
    # Block 2 halves the resolution.
    assert params["stage2_opening"]["compress_conv"]["kernel"].shape[:2] == (4, 4)
    assert [t.depth for t in model.topologies] == [0, 1, 1, 2, 2, 3, 0, 2, 2]


@pytest.mark.parametrize(
    ("name", "overrides", "said"),
    [
        ("efficientnet_b0", {"aggregation": "concat"}, "allowed: padded_sum, sum, mean"),
        ("efficientnet_b0", {"topology": "dens"}, "nearest: dense"),
        ("efficientnet_b0", {"topology": ("plain",) * 3}, "topology has 3 values for 7 stages"),
        ("efficientnet_b0", {"dropout": 1.0}, "dropout must be"),
        ("efficientnet_b0", {"drop_connect": -0.1}, "drop_connect must be"),
        ("micro_dense_efficientnet_b0", {"replaced": (1, 8)}, "replaced must be"),
        ("micro_dense_efficientnet_b0", {"replaced": (8, 17)}, "from 2 to 16"),
        ("micro_dense_efficientnet_b0", {"replaced": (8, 8)}, "different numbers"),
        ("micro_dense_efficientnet_b0", {"aggregation": "sum"}, "concat, padded_sum"),
    ],
)
def test_numbers_that_fit_no_network(name, overrides, said):
    assert said in one_line_error(create_model, name, **overrides)


@pytest.mark.slow
def test_other_shortcuts_have_the_same_parameters():
    plain = abstract(create_model("efficientnet_b0"))
    dense = abstract(create_model("efficientnet_b0", topology="dense", aggregation="mean"))
    assert plain == dense
    assert info("efficientnet_b0", 10, topology="dense").links == 1 + 1 + 3 + 3 + 6
