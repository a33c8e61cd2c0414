"""Counts, shapes, names and refusals of HCGNets."""

import jax
import jax.numpy as jnp
import pytest

from aggnets_jax import create_model
from tests.models.variables import model_info
from tests.patterns import one_line_error

# Parameters and multiply-adds of the reference code, those of A2 and C by `counted` alone.
COUNTS = {
    ("hcgnet_a1", 10): (1_065_301, 154_231_776),
    ("hcgnet_a1", 100): (1_102_651, 154_269_036),
    ("hcgnet_a2", 10): (3_069_149, 488_603_776),
    ("hcgnet_a2", 100): (3_133_679, 488_668_216),
    ("hcgnet_a3", 10): (11_239_897, 1_956_302_016),
    ("hcgnet_a3", 100): (11_363_647, 1_956_425_676),
    ("hcgnet_b", 1000): (12_845_501, 2_002_776_044),
    ("hcgnet_c", 1000): (42_153_208, 6_971_626_636),
}

# Modules, growth rates, and widths in, in the middle and out of each transition.
WIDTHS = {
    "hcgnet_a1": (8, (12, 24, 36), (24, 120, 90, 60, 252, 189, 126, 414)),
    "hcgnet_a2": (8, (24, 36, 64), (48, 240, 180, 120, 408, 306, 204, 716)),
    "hcgnet_a3": (12, (36, 48, 80), (72, 504, 378, 252, 828, 621, 414, 1374)),
    "hcgnet_b": (
        (3, 6, 12, 8),
        (32, 48, 64, 96),
        (64, 160, 120, 80, 368, 276, 184, 952, 714, 476, 1244),
    ),
    "hcgnet_c": (
        (6, 12, 18, 14),
        (48, 56, 72, 112),
        (64, 352, 264, 176, 848, 636, 424, 1720, 1290, 860, 2428),
    ),
}


def module_counts(inputs, width, features, groups, reduction, pixels_in, pixels_out):
    f, u = features // reduction, 2 * features // reduction
    squeeze, widen = inputs * width, 9 * width * features // groups
    maps = 18 * features + 3 * features  # depthwise kernels, scores
    gates = 2 * features * f + 2 * features * u + 2 * features * u
    norms = 2 * (inputs + width + 2 * features + f + u)
    biases = 3 + f + features + u + 2 * features
    params = squeeze + widen + maps + gates + norms + biases
    return params, pixels_in * squeeze + pixels_out * (widen + maps) + gates


def counted(name, classes):
    modules, growth_rates, widths = WIDTHS[name]
    blocks = len(growth_rates)
    modules = modules if isinstance(modules, tuple) else (modules,) * blocks
    channels, widths = widths[0], widths[1:]
    if blocks == 3:
        pixels = 32**2
        params, macs = 27 * channels, 27 * channels * pixels
    else:
        pixels = 56**2
        kernels = [27 * 32, 9 * 32 * 32, 9 * 32 * 64]
        params, macs = sum(kernels) + 2 * (32 + 32 + 64), 112**2 * sum(kernels)
    for block, (n, k) in enumerate(zip(modules, growth_rates, strict=True)):
        parts = [module_counts(channels + i * k, 4 * k, k, 4, 2, pixels, pixels) for i in range(n)]
        channels += n * k
        assert channels == widths[3 * block]
        if block < blocks - 1:
            _, width, features = widths[3 * block : 3 * block + 3]
            parts.append(module_counts(channels, width, features, 1, 4, pixels, pixels // 4))
            channels, pixels = features, pixels // 4
        params += sum(part[0] for part in parts)
        macs += sum(part[1] for part in parts)
    return params + 2 * channels + classes * (channels + 1), macs + classes * channels


@pytest.mark.parametrize(("name", "classes"), COUNTS)
def test_counts_follow_from_the_widths(name, classes):
    assert counted(name, classes) == COUNTS[name, classes]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name != "hcgnet_a1" else ()) for name in WIDTHS],
)
def test_counts_to_the_digit_and_as_printed(name):
    info = model_info(name)
    assert (info.params, info.macs) == COUNTS[name, info.num_classes]
    assert info.num_classes == (1000 if name in ("hcgnet_b", "hcgnet_c") else 10)
    # Of networks for CIFAR the size with 100 classes is printed.
    printed = COUNTS[name, max(info.num_classes, 100)][0] / 1e6
    if name == "hcgnet_b":
        assert info.printed.remark
        printed = round(printed, 2)
    assert f"{printed + 1e-9:.1f}M" == info.printed.params


@pytest.mark.slow
def test_endpoints():
    def shapes(name, **overrides):
        model = create_model(name, **overrides)
        images = jax.ShapeDtypeStruct((2, *model_input), jnp.float32)
        (_, endpoints), variables = jax.eval_shape(
            model.init_with_output, jax.random.key(0), images
        )
        return endpoints, variables

    model_input = (32, 32, 3)
    endpoints, variables = shapes("hcgnet_n2_1_k12_24", num_classes=5, dtype=jnp.bfloat16)
    assert {name: value.shape for name, value in endpoints.items()} == {
        "stem": (2, 32, 32, 24),
        "stage1": (2, 32, 32, 48),
        "stage2": (2, 16, 16, 48),
        "pre_logits_2d": (2, 16, 16, 48),
        "pre_logits": (2, 48),
        "logits": (2, 5),
    }
    assert endpoints.pop("logits").dtype == jnp.float32
    assert {x.dtype for x in endpoints.values()} == {jnp.dtype(jnp.bfloat16)}
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}

    model_input = (224, 224, 3)
    endpoints, _ = shapes("hcgnet_b", modules=(1, 1, 1, 1))
    assert {name: value.shape for name, value in endpoints.items()} == {
        "stem": (2, 56, 56, 64),
        "stage1": (2, 56, 56, 96),
        "stage2": (2, 28, 28, 96),
        "stage3": (2, 14, 14, 112),
        "stage4": (2, 7, 7, 152),
        "pre_logits_2d": (2, 7, 7, 152),
        "pre_logits": (2, 152),
        "logits": (2, 1000),
    }


def test_names_and_arguments():
    a1 = create_model("hcgnet_a1")
    assert a1 == create_model("hcgnet", modules=(8, 8, 8), growth_rate=(12, 24, 36))
    assert a1 == create_model("hcgnet_n8_8_8_k12_24_36")
    assert a1 == create_model("hcgnet", variant="a1")
    assert {topology.name for topology in a1.topologies} == {"dense"}
    b = create_model("hcgnet_b")
    assert b == create_model("hcgnet_imagenet", modules=(3, 6, 12, 8), growth_rate=(32, 48, 64, 96))
    assert b == create_model("hcgnet_imagenet_n3_6_12_8_k32_48_64_96")
    assert create_model("hcgnet_n4_k12").growth_rates == (12,)
    smaller = create_model("hcgnet_a1", modules=(2, 2, 2))
    assert [topology.depth for topology in smaller.topologies] == [2, 2, 2]
    assert smaller.growth_rates == (12, 24, 36)
    other = create_model("hcgnet_a1", topology="sparse", dropout=0.1, groups=2, stem_features=16)
    assert {topology.name for topology in other.topologies} == {"sparse"}
    assert (other.dropout, other.groups, other.stem_features) == (0.1, 2, 16)


@pytest.mark.parametrize(
    ("name", "overrides", "said"),
    [
        ("hcgnet", {}, "'modules' and 'growth_rate', or 'variant'"),
        ("hcgnet_b", {"stem_features": 33}, "stem_features must be an even number, got 33"),
        ("hcgnet", {"modules": (8, 8, 8)}, "'modules' and 'growth_rate'"),
        ("hcgnet", {"modules": (), "growth_rate": 12}, "'modules' and 'growth_rate'"),
        ("hcgnet", {"variant": "a4"}, "nearest: a"),
        ("hcgnet_a1", {"modules": (8, 8)}, "growth_rate has 3 values for 2 stages"),
        ("hcgnet_a1", {"modules": (8, 0, 8)}, "the depth of a stage must be"),
        ("hcgnet_a1", {"growth_rate": (12, 22, 36)}, "growth_rate 22 is not divisible by groups 4"),
        ("hcgnet_a1", {"growth_rate": 0}, "at least 2, got 0"),
        ("hcgnet_a1", {"groups": 0}, "at least 1, got 0"),
        ("hcgnet_a1", {"stem_features": 1}, "at least 2, got 1"),
        ("hcgnet_a1", {"compression": 1.5}, "compression must be"),
        ("hcgnet_a1", {"dropout": 1.0}, "dropout must be"),
        ("hcgnet_a1", {"aggregation": "summ"}, "nearest: sum"),
        (
            "hcgnet_n2_k4",
            {"topology": "custom", "topology_args": {"edges": [(1, 0), (2, 0), (3, 2)]}},
            "nothing reads layer 1",
        ),
        ("hcgnet_n8_8_8_k12_24", {}, "growth_rate has 2 values for 3 stages"),
        ("hcgnet_n1_1_k4", {"aggregation": "sum"}, "too narrow for gates"),
        ("hcgnet_a1", {"gate_activation": "relo"}, "nearest: relu"),
        (
            "hcgnet_a1",
            {"forget_reductions": (2, 4, 4)},
            "has 3 values; allowed: one",
        ),
        ("hcgnet_a1", {"update_reductions": 0}, "update_reductions"),
        ("hcgnet_a1", {"multiplier": 0.9}, "can't be split into 4 groups"),
    ],
)
def test_numbers_that_fit_no_network(name, overrides, said):
    assert said in one_line_error(model_info, name, **overrides)


def test_alpha_and_the_reductions_of_the_gates_are_arguments():
    model = create_model(
        "hcgnet_n1_1_k8_16",
        multiplier=2.5,
        transition_multiplier=2,
        update_reductions=(8, 2),
        forget_reductions=3,
    )
    images = jnp.zeros((1, 8, 8, 3))
    params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    modules = params["stage1"]["layer1"], params["transition1"], params["stage2"]["layer1"]
    # 24 channels enter the transition and 12 leave it.
    assert [module["conv1"]["kernel"].shape[3] for module in modules] == [20, 24, 40]
    hidden = [module["update_gate"]["norm"]["scale"].size for module in modules]
    assert hidden == [2 * 8 // 8, 2 * 12 // 2, 2 * 16 // 8]
    hidden = [module["forget_gate"]["norm"]["scale"].size for module in modules]
    assert hidden == [8 // 3, 12 // 3, 16 // 3]
