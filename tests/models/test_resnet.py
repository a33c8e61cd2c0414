"""ResNet, ResNeXt and Wide ResNet-50-2: sizes of other implementations, and straight-line code."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax import create_model
from aggnets_jax.errors import UserError
from aggnets_jax.layers.residual_blocks import block_numbers
from aggnets_jax.models.registry import find_family
from tests.marks import mostly_slow
from tests.models import residual_numpy
from tests.models.residual import assert_is, drawn, parameters, shapes
from tests.models.variables import model_info

TINY = {"width": 25, "stage_depths": (3, 2)}


def resnet(block, train=False):
    return lambda variables, images: residual_numpy.residual_network(
        variables, images, (3, 2), block=block, train=train
    )


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_resnet_is_straight_line_code(train):
    assert_is("resnet_cifar", resnet(residual_numpy.bottleneck, train), train=train, **TINY)


def test_basic_blocks_keep_the_input_of_the_first_stage():
    assert_is("resnet_cifar", resnet(residual_numpy.basic_block), block="basic", **TINY)
    assert set(shapes("resnet_cifar", block="basic", **TINY)) == {
        *("stem_conv", "stem_norm", "stage1_opening", "stage1"),
        *("stage2_opening", "stage2_projection", "stage2", "classifier"),
    }


def test_resnext_has_groups():
    block = partial(residual_numpy.bottleneck, groups=4)
    assert_is("resnext_cifar", resnet(block), **TINY, groups=4, base_width=8)


def test_a_mean_of_outputs_is_halved_by_two():
    def mean(part, outputs, blocks, layer):
        return sum(outputs[-2:]) / min(layer, 2)

    def expected(variables, images):
        return residual_numpy.residual_network(
            variables, images, (3, 2), block=residual_numpy.bottleneck, shortcut=mean
        )

    window = {"topology": "windowed", "topology_args": {"window": 2}}
    assert_is("resnet_cifar", expected, aggregation="mean", **window, **TINY)


@pytest.mark.parametrize("name", ["resnet50", "seresnet50", "wide_resnet50_2"])
def test_names_of_parameters(name):
    params = shapes(name, size=32)
    assert {key for key in params if "stage1" in key or "stem" in key} == {
        *("stem_conv", "stem_norm", "stage1_opening", "stage1_projection", "stage1")
    }
    assert set(params["stage3"]) == {f"layer{n}" for n in range(1, 6)}
    parts = {f"{part}{i}" for part in ("conv", "norm") for i in (1, 2, 3)}
    attention = {"attention"} if name == "seresnet50" else set()
    assert set(params["stage3"]["layer5"]) == set(params["stage2_opening"]) == parts | attention
    assert params["stage2_projection"]["conv"]["kernel"].shape == (1, 1, 256, 512)


# With 1000 classes, as torchvision and timm have them.
IMAGENET = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x8d": 88_791_336,
    "wide_resnet50_2": 68_883_240,
    "wide_resnet101_2": 126_886_696,
    "seresnet50": 28_088_024,
    "cbam_resnet50": 28_089_624,
}


@mostly_slow("name", IMAGENET, quick=(0, 2))
def test_sizes_are_those_of_other_implementations(name):
    assert parameters(name, size=32) == IMAGENET[name]


@pytest.mark.parametrize(("name", "macs"), [("resnet18", 1_814_073_344), ("resnet50", 4089184256)])
def test_multiply_adds_at_224(name, macs):
    assert model_info(name).macs == macs


def test_blocks_follow_from_the_depth():
    assert [block_numbers(d) for d in (18, 34)] == [(2, 2, 2, 2), (3, 4, 6, 3)]
    assert [block_numbers(d) for d in (14, 26, 38)] == [(n,) * 4 for n in (1, 2, 3)]
    thirds = {41: 3, 50: 6, 62: 10, 77: 15, 101: 23}
    assert [block_numbers(d) for d in thirds] == [(3, 4, n, 3) for n in thirds.values()]
    assert [block_numbers(d) for d in (152, 200)] == [(3, 8, 36, 3), (3, 24, 36, 3)]
    assert [block_numbers(d, 3) for d in (11, 29)] == [(1, 1, 1), (3, 3, 3)]


def test_every_depth_counts_its_convolutions():
    for depth in range(1, 240):
        try:
            blocks = block_numbers(depth)
        except UserError as error:
            assert "3n + 2 from 41 on, nearest" in str(error)
        else:
            assert depth == 2 + sum(blocks) * (2 if depth in (18, 34) else 3)
    assert block_numbers(239) == (3, 4, 69, 3)


@pytest.mark.parametrize(("depth", "nearest"), [(1, 14), (19, 18), (30, 26), (51, 50), (52, 53)])
def test_the_nearest_depth_is_named(depth, nearest):
    with pytest.raises(UserError, match=f"nearest {nearest}$"):
        create_model(f"resnet{depth}_cifar_w25")


@pytest.mark.parametrize(
    ("name", "depth", "nearest"),
    [("ds2net{}", 19, 14), ("ds2net{}", 33, 38), ("resnext{}_cifar_w25", 19, 14)],
)
def test_the_nearest_depth_has_blocks_that_the_network_can_have(name, depth, nearest):
    with pytest.raises(UserError, match=f"allowed: 14, 26, 38, and 3n.* nearest {nearest}$"):
        create_model(name.format(depth))
    create_model(name.format(nearest))


def test_the_nearest_of_a_huge_depth_is_found_at_once():
    with pytest.raises(UserError, match=f"nearest {10**15 + 1}$"):
        block_numbers(10**15)


@pytest.mark.parametrize(
    ("name", "block", "said"),
    [
        ("resnet50", "basic", "depth 50 has bottleneck blocks, .*: 18, 34, nearest 34$"),
        ("resnet26_cifar_w25", "basic", "depth 26 has bottleneck blocks, .* nearest (18|34)$"),
        ("resnet20", "basic", "depth 20 fits no network .*: 18, 34, nearest 18$"),
        ("resnet18", "bottleneck", "depth 18 has basic blocks, .*: 14, 26, 38, .* nearest 14$"),
        ("resnet34_cifar_w25", "bottleneck", "depth 34 has basic blocks, .* nearest 38$"),
    ],
)
def test_a_block_does_not_contradict_the_depth(name, block, said):
    with pytest.raises(UserError, match=said):
        create_model(name, block=block)


def test_a_block_may_be_said_again():
    assert create_model("resnet34", block="basic") == create_model("resnet34")
    assert create_model("resnet50", block="bottleneck") == create_model("resnet50")
    by_depths = create_model("resnet50", block="basic", stage_depths=(3, 4, 6, 3))
    assert by_depths == create_model("resnet34")


def test_names_and_arguments_make_the_same_network():
    by_name = create_model("resnext29_6x64d")
    by_arguments = create_model("resnext_three_stages", depth=29, groups=6, base_width=64)
    assert by_name == by_arguments
    assert find_family("resnext101_32x8d").name == "resnext"
    assert create_model("dsnet41_cifar_w75").width == 48


def test_endpoints_for_large_and_small_images():
    def endpoints(name, size):
        model = create_model(name, 7)
        images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
        (_, endpoints), _ = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
        return {key: value.shape for key, value in endpoints.items()}

    assert endpoints("resnet14", 64) == {
        "stem": (2, 16, 16, 64),
        **{f"stage{i}": (2, 32 // 2**i, 32 // 2**i, 128 * 2**i) for i in (1, 2, 3, 4)},
        "pre_logits_2d": (2, 2, 2, 2048),
        "pre_logits": (2, 2048),
        "logits": (2, 7),
    }
    small = endpoints("resnet14_cifar_w25", 32)
    assert (small["stem"], small["stage4"]) == ((2, 32, 32, 16), (2, 4, 4, 512))


@pytest.mark.parametrize("name", ["cbam_resnet14", "dsnet26_cifar_w25_bn"])
def test_bfloat16_ends_in_float32(name):
    model = create_model(name, 5, dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    (logits, endpoints), variables = jax.eval_shape(
        partial(model.init_with_output, train=True), jax.random.key(0), images
    )
    assert logits.dtype == jnp.float32
    assert endpoints["stage2"].dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def test_convolutions_are_drawn_by_fan_out():
    fan_outs = {
        "stem_conv": 3 * 3 * 64,
        "stage1_opening/conv2": 3 * 3 * 128,
        "stage2_projection/conv": 512,
    }
    tiny = {"width": 100, "stage_depths": (1, 1)}
    kernels = drawn("resnext_cifar", *(f"{path}/kernel" for path in fan_outs), **tiny)
    for kernel, fan_out in zip(kernels, fan_outs.values(), strict=True):
        np.testing.assert_allclose(kernel.std(), (2 / fan_out) ** 0.5, rtol=0.05)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"stages": 2}, "stages must be 3 or 4, got 2"),
        ({"stage_depths": (2, 0)}, "must be a whole number of at least 1, got 0"),
        ({"block": "basic", "groups": 2}, "basic blocks have no groups"),
        ({"block": "bottle"}, "nearest: bottleneck"),
        ({"width": 30}, "multiples of 25, nearest 25"),
        ({"topology": "densely"}, "nearest: dense"),
        ({"width_": 25}, "nearest: width"),
    ],
)
def test_refusals_are_one_line(overrides, message):
    with pytest.raises(UserError) as caught:
        create_model("resnet_cifar", **{"depth": 26, **overrides})
    assert message in str(caught.value) and "\n" not in str(caught.value)
