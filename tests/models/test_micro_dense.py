"""Micro-Dense Nets against straight-line code, the sizes of variants, and what can be swapped."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax import create_model, model_info
from aggnets_jax.layers import common
from aggnets_jax.layers.micro_dense_blocks import MicroDenseBlock, micro_dense_block
from tests.marks import mostly_slow
from tests.models.straight_line import Layers, assert_straight_line, at, halves, jit
from tests.models.test_counts import info
from tests.models.test_pyramidnet import widen
from tests.models.variables import random_variables
from tests.patterns import one_line_error


def micro_dense(net, x, path, features, stride, compressed, widths, groups, final_relu=True):
    """F of MDConv-n as Table 1 has it, the widths and groups of its layers given."""
    h = net.norm(x, f"{path}/input_norm")
    h = net.conv(h, f"{path}/compress_conv", stride)
    assert h.shape[3] == compressed
    joined = net.norm_relu(h, f"{path}/compress_norm")
    for layer, (width, k) in enumerate(zip(widths, groups, strict=True), start=1):
        inner = f"{path}/layers/layer{layer}"
        z = net.norm_relu(net.conv(joined, f"{inner}/conv1"), f"{inner}/norm1")
        z = net.norm_relu(net.conv(z, f"{inner}/conv2", groups=k), f"{inner}/norm2")
        assert z.shape[3] == width
        joined = np.concatenate([joined, z], axis=3)
    y = net.norm(net.conv(joined, f"{path}/output_conv"), f"{path}/output_norm")
    assert y.shape[3] == features
    return np.maximum(y, 0) if final_relu else y


# Paths, widths floor(16 + 9 k / blocks) and strides of the blocks.
BLOCKS = {
    "mdnet3_a9": [("stage1/layer1", 19, 1), ("stage2_opening", 22, 2), ("stage3_opening", 25, 2)],
    "mdnet6_a9": [
        ("stage1/layer1", 17, 1),
        ("stage1/layer2", 19, 1),
        ("stage2_opening", 20, 2),
        ("stage2/layer1", 22, 1),
        ("stage3_opening", 23, 2),
        ("stage3/layer1", 25, 1),
    ],
}


def mdnet(net, x, blocks, compressed, rule):
    """Blocks between a stem and a head."""
    x = net.norm(net.conv(x, "stem_conv"), "stem_norm")
    for (path, features, stride), c in zip(blocks, compressed, strict=True):
        widths, groups = rule(c)
        y = micro_dense(net, x, path, features, stride, c, widths, groups)
        x = widen(x if stride == 1 else halves(x).mean(-1), features) + y
    x = net.norm_relu(x, "head_norm")
    return net.linear(x.mean((1, 2)), "classifier")


READINGS = {
    "default": ({}, [4] * 6, lambda c: ([2 * c, 3 * c, 4 * c], [2, 3, 4])),
    "compression": (
        {"compression": 0.5},
        [8, 8, 8, 8, 8, 8],
        lambda c: ([2 * c, 3 * c, 4 * c], [2, 3, 4]),
    ),
    "narrow": (
        {"width_rule": "pyramidal_narrow", "compression": 0.9},
        [12, 12, 16, 16, 16, 20],
        lambda c: ([2 * c // 4, 3 * c // 4, c], [2, 3, 4]),
    ),
    "finely grouped": (
        {"width_rule": "pyramidal_finely_grouped", "num_layers": 2, "compression": 0.275},
        [4] * 6,
        lambda c: ([2 * c, 3 * c], [8, 12]),
    ),
    "fixed": (
        {"growing": False, "compression": 0.275},
        [4] * 6,
        lambda c: ([2 * c] * 3, [2] * 3),
    ),
}


@pytest.mark.parametrize(
    ("name", "reading", "train"),
    [
        ("mdnet3_a9", "default", True),
        ("mdnet3_a9", "default", False),
        *(pytest.param("mdnet6_a9", r, True, marks=pytest.mark.slow) for r in READINGS),
    ],
)
def test_a_whole_network_is_table_1_in_a_pyramid(name, reading, train):
    overrides, compressed, rule = READINGS[reading]
    blocks = BLOCKS[name]
    reference = functools.partial(
        mdnet, blocks=blocks, compressed=compressed[: len(blocks)], rule=rule
    )
    assert_straight_line(name, overrides, 8, reference, train)


def block_of(stride=1, features=12, train=True, dtype=jnp.float32, **arguments):
    """A block alone, as a network gives it its layers."""
    made = micro_dense_block(**{"num_layers": 2, **arguments})
    return made(
        features,
        stride=stride,
        norm=common.batch_norm(train=train, dtype=dtype),
        conv=functools.partial(common.conv, dtype=dtype),
        name=None,
    )


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("stride", "final_relu"), [(1, False), (2, True)])
def test_a_block_is_table_1(stride, final_relu, train):
    with jax.enable_x64(True):
        block = block_of(stride=stride, train=train, dtype=jnp.float64, final_relu=final_relu)
        variables = random_variables(block, 8)
        images = np.random.default_rng(2).standard_normal((2, 8, 8, 3))

        @jit
        def ours(variables, images):
            return block.apply(variables, images, mutable=["batch_stats"])

        output, updates = ours(variables, images)
    net = Layers({kind: {"block": tree} for kind, tree in variables.items()}, train)
    widths, groups = [8, 12], [2, 3]
    expected = micro_dense(net, images, "block", 12, stride, 4, widths, groups, final_relu)
    running = net.updated
    assert output.shape == (2, 8 // stride, 8 // stride, 12)
    np.testing.assert_allclose(output, expected, rtol=1e-9, atol=1e-9)
    assert (np.asarray(output).min() < 0) != final_relu
    assert len(running) == (7 if train else 0)
    for path, values in running.items():
        kept = at(updates["batch_stats"], path.removeprefix("block/"))
        np.testing.assert_allclose(kept["mean"], values["mean"], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(kept["var"], values["var"], rtol=1e-9, atol=1e-9)


def test_sparse_topology_inside_a_block_reads_what_it_says():
    block = block_of(num_layers=4, topology="sparse", compression=0.4)
    shapes = jax.eval_shape(block.init, jax.random.key(0), jnp.zeros((1, 8, 8, 10)))["params"]
    inputs = [shapes["layers"][f"layer{n}"]["conv1"]["kernel"].shape[2] for n in range(1, 5)]
    # c_0 is 4, the layers have 8, 12, 16, 20; layer l reads l - 1, l - 2, l - 4.
    assert inputs == [4, 8 + 4, 12 + 8, 16 + 12 + 4]
    assert shapes["output_conv"]["kernel"].shape == (1, 1, 20 + 16 + 8, 12)


def test_padded_sum_inside_a_block():
    block = block_of(num_layers=3, aggregation="padded_sum")
    shapes = jax.eval_shape(block.init, jax.random.key(0), jnp.zeros((1, 8, 8, 10)))["params"]
    inputs = [shapes["layers"][f"layer{n}"]["conv1"]["kernel"].shape[2] for n in range(1, 4)]
    assert inputs == [4, 8, 12]
    assert shapes["output_conv"]["kernel"].shape[2] == 16


def test_shortcuts_of_another_topology():
    model = create_model("mdnet9_a9", shortcut_topology=("plain", "dense", "sparse"))
    assert [t.name for t in model.topologies[:4]] == ["plain", "dense", "sparse", "dense"]
    assert info("mdnet9_a9", 10, shortcut_topology="dense").params == info("mdnet9_a9", 10).params


SIZES = {
    "mdnet30_a64": {10: (736_874, 132_723_744), 100: (744_164, 132_730_944)},
    "mdnet60_a115": {10: (3_979_504, 663_260_958), 100: (3_991_384, 663_272_748)},
    "mdnet54_w64_128_256": {10: (1_783_442, 256_215_552)},
    "resnext164_2x42d_w25": {10: (1_818_734, 260_067_840)},
    "res2next164_4x8d_4s_w25": {10: (1_768_858, 259_131_904)},
    "micro_dense_resnext164_w25": {10: (1_824_130, 259_934_720)},
    "mdnet60_a64_n1": {10: (737_838, 135_353_120)},
    "mdnet39_a64_n2": {10: (729_890, 129_406_752)},
    "mdnet24_a64_n4": {10: (738_342, 125_010_976)},
    "mdnet21_a64_n5": {10: (736_786, 139_632_672)},
    "mdnet30_a64_n1": {10: (739_206, 143_368_480)},
    "mdnet30_a64_n2": {10: (734_406, 135_063_072)},
    "mdnet30_a64_n3": {10: (736_874, 132_723_744)},
    "mdnet30_a64_n4": {10: (735_854, 131_135_520)},
    "mdnet30_a64_n5": {10: (719_762, 158_920_736)},
    "mdnet30_a64_fixed": {10: (739_014, 137_758_240)},
}


# Seconds to trace.
DEEP = [name for name in SIZES if name != "mdnet30_a64_n1"]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in DEEP else ()) for n in SIZES]
)
def test_sizes(name):
    for classes, expected in SIZES[name].items():
        counted = info(name, classes)
        assert (counted.params, counted.macs) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "compression", "params"),
    [("mdnet30_a64", 0.792, 699_877), ("mdnet60_a115", 0.868, 3_997_098)],
)
def test_table_1_needs_two_compressions(name, compression, params):
    counted = info(name, 10, width_rule="pyramidal_narrow", compression=compression)
    assert counted.params == params


def test_compression_is_exact():
    # 0.35 * 80 / 4 = 7 and 0.29 * 400 / 4 = 29, which floats miss.
    assert micro_dense_block(num_layers=3, compression=0.35).compressed(80) == 28
    assert micro_dense_block(num_layers=3, compression=0.29).compressed(400) == 116
    assert micro_dense_block(num_layers=3, compression=0.275).compressed(1) == 4
    for channels in range(1, 400):
        block = micro_dense_block(num_layers=3)
        assert block.compressed(channels) == 4 * max(1, 11 * channels // 160)


def test_convolutions_are_drawn_as_he_has_it():
    block = block_of(stride=2, features=100, num_layers=3)
    params = jit(block.init)(jax.random.key(0), jnp.zeros((1, 4, 4, 120)))["params"]
    kernels = {
        "output_conv": params["output_conv"]["kernel"],
        "compress_conv": params["compress_conv"]["kernel"],
        "conv1": params["layers"]["layer1"]["conv1"]["kernel"],
        "conv2": params["layers"]["layer3"]["conv2"]["kernel"],
    }
    assert kernels["compress_conv"].shape[:2] == (4, 4)
    for name, kernel in kernels.items():
        fan_out = np.prod(kernel.shape[:2]) * kernel.shape[3]
        error = 4 / np.sqrt(kernel.size)
        assert abs(kernel.mean()) * np.sqrt(fan_out / 2) < error, name
        assert abs(kernel.std() * np.sqrt(fan_out / 2) - 1) < error, name


def test_names_give_the_numbers():
    assert create_model("mdnet30_a64") == create_model("mdnet", depth=30, alpha=64)
    assert create_model("mdnet30_a64_n3") == create_model("mdnet30_a64")
    five = create_model("mdnet", depth=30, alpha=64, num_layers=5)
    assert create_model("mdnet30_a64_n5") == five
    fixed = create_model("mdnet30_a64", growing=False)
    assert create_model("mdnet30_a64_fixed") == fixed != create_model("mdnet30_a64")
    assert create_model("mdnet12_w8_16_32_n2_fixed").block.compression == 1 / 16
    assert create_model("mdnet12_w8_16_32").widths == (8,) * 4 + (16,) * 4 + (32,) * 4
    assert create_model("mdnet30_a64", final_relu=False) != create_model("mdnet30_a64")
    assert isinstance(block_of(), MicroDenseBlock)


def test_topologies_are_those_of_stages_and_blocks():
    model = create_model("mdnet9_a9")
    assert [t.depth for t in model.topologies[:3]] == [3, 2, 2]
    assert [(t.name, t.depth) for t in model.topologies[3:]] == [("dense", 3)] * 9
    # Three, two and two shortcuts, and in each block 1 + 2 + 3 links.
    assert model_info("mdnet9_a9").links == 7 + 9 * 6


@pytest.mark.parametrize("name", ["mdnet3_a5", "mdnet6_w8_8_16"])
def test_endpoints_and_bfloat16(name):
    model = create_model(name, 7, dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    (logits, endpoints), variables = jax.eval_shape(
        model.init_with_output, jax.random.key(0), images
    )
    assert [endpoints[f"stage{i}"].shape[1] for i in (1, 2, 3)] == [16, 8, 4]
    assert endpoints["pre_logits"].shape == (2, model.widths[-1])
    assert logits == endpoints.pop("logits")
    assert logits.dtype == jnp.float32
    assert {x.dtype for x in endpoints.values()} == {jnp.dtype(jnp.bfloat16)}
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def residual(net, x, block, widths):
    """ResNeXt's backbone with two blocks in a stage: projections, and a ReLU after each sum."""
    x = net.norm_relu(net.conv(x, "stem_conv"), "stem_norm")
    for i, features in enumerate(widths, start=1):
        for path in (f"stage{i}_opening", f"stage{i}/layer1"):
            stride = 2 if i > 1 and path.endswith("opening") else 1
            y = block(net, x, path, features, stride)
            if path.endswith("opening"):
                at = f"stage{i}_projection"
                x = net.norm(net.conv(x, f"{at}/conv", stride), f"{at}/norm")
            x = np.maximum(x + y, 0)
    return net.linear(x.mean((1, 2)), "classifier")


def grouped(net, x, path, features, stride):
    """F of ResNeXt 2x32d at a width of 25 %."""
    del features
    y = net.norm_relu(net.conv(x, f"{path}/conv1"), f"{path}/norm1")
    y = net.norm_relu(net.conv(y, f"{path}/conv2", stride, 2), f"{path}/norm2")
    return net.norm(net.conv(y, f"{path}/conv3"), f"{path}/norm3")


def multi_scale(net, x, path, features, stride):
    """F of Res2NeXt with two groups and three scales."""
    del features
    y = net.norm_relu(net.conv(x, f"{path}/conv1"), f"{path}/norm1")
    splits, outputs = np.split(y, 3, axis=3), []
    opening = path.endswith("opening")
    for i in range(3 if opening else 2):
        read = splits[i] if opening or i == 0 else splits[i] + outputs[-1]
        inside = f"{path}/scales/layer{i + 1}"
        outputs.append(net.norm_relu(net.conv(read, f"{inside}/conv", stride, 2), f"{inside}/norm"))
    joined = np.concatenate(outputs if opening else [*outputs, splits[2]], axis=3)
    return net.norm(net.conv(joined, f"{path}/conv3"), f"{path}/norm3")


def dense_layers(net, x, path, features, stride):
    """F of the micro-dense network with c_0 = max(4, c / 16)."""
    c = max(4, x.shape[3] // 16 // 4 * 4)
    widths, groups = [2 * c, 3 * c, 4 * c], [2, 3, 4]
    return micro_dense(net, x, path, features, stride, c, widths, groups)


@mostly_slow(
    ("name", "block"),
    [
        ("resnext20_2x32d_w25", grouped),
        ("res2next20_2x16d_3s_w25", multi_scale),
        ("micro_dense_resnext20_w25", dense_layers),
    ],
    quick=(0, 1),
)
def test_rivals_differ_from_micro_dense_nets_in_the_block(name, block):
    reference = functools.partial(residual, block=block, widths=(64, 128, 256))
    assert_straight_line(name, {}, 8, reference, train=True)


@pytest.mark.parametrize(
    ("name", "overrides", "said"),
    [
        ("mdnet31_a64", {}, "nearest 30"),
        ("mdnet", {"depth": 30}, "one of the arguments 'alpha' and 'widths'"),
        ("mdnet30_a64", {"widths": (1, 2, 3)}, "one of the arguments 'alpha' and 'widths'"),
        ("mdnet30_w64_128", {}, "widths has 2 values for 3 stages"),
        ("mdnet30_w64_32_16", {}, "widths must not fall"),
        ("mdnet30_a64", {"aggregation": "sum"}, "allowed: concat, padded_sum"),
        ("mdnet30_a64", {"aggregation": "concatt"}, "nearest: concat"),
        ("mdnet30_a64", {"width_rule": "pyramid"}, "nearest: pyramidal"),
        ("mdnet30_a64", {"topology": "sparce"}, "nearest: sparse"),
        ("mdnet30_a64", {"num_layers": 0}, "num_layers must be"),
        ("mdnet30_a64", {"compression": 0.0}, "compression must be"),
        ("mdnet30_a64", {"num_layers": 4, "topology": "custom"}, "'edges'"),
        ("micro_dense_resnext21_w25", {}, "nearest 20"),
        ("micro_dense_resnext20_w25", {"attention": "se"}, "have no attention"),
    ],
)
def test_numbers_that_fit_no_network(name, overrides, said):
    assert said in one_line_error(create_model, name, **overrides)


def convolutions(name):
    """The convolutions on the longest path of a network, without stem and shortcuts."""
    blocks = [topology.depth for topology in create_model(name).topologies[3:]]
    return sum(2 * layers + 2 for layers in blocks)


def test_networks_of_figure_4_are_about_equally_deep():
    names = ["mdnet60_a64_n1", "mdnet39_a64_n2", "mdnet30_a64", "mdnet24_a64_n4", "mdnet21_a64_n5"]
    assert [convolutions(name) for name in names] == [240, 234, 240, 240, 252]
    assert [convolutions(f"mdnet30_a64_n{n}") for n in (1, 2, 4, 5)] == [120, 180, 300, 360]


def test_topologies_of_a_micro_dense_resnext_are_those_of_stages_and_all_blocks():
    model = create_model("micro_dense_resnext29_w25")
    assert [t.depth for t in model.topologies[:3]] == [2, 2, 2]
    assert [(t.name, t.depth) for t in model.topologies[3:]] == [("dense", 3)] * 9
    assert model_info("micro_dense_resnext29_w25").links == 6 + 9 * 6


def test_images_that_cannot_be_halved_are_told():
    for name in ("mdnet3_a5", "micro_dense_resnext29_w25"):
        message = one_line_error(model_info, name, input_shape=(10, 10, 3))
        assert "5x5 can't be halved; allowed: even heights and widths" in message
        assert "multiples of 32" in message
