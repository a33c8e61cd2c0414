"""DSNet, DS2Net and the rows of Table 1 against straight-line code, and their sizes."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax import create_model
from aggnets_jax.errors import UserError
from aggnets_jax.models.registry import find_family, find_printed
from tests.marks import mostly_slow
from tests.models import residual_numpy
from tests.models.residual import SIZE, assert_is, drawn, jit, parameters, shapes
from tests.models.variables import random_variables

TINY = {"width": 25, "stage_depths": (4, 2)}


def groups_of(channels):
    return min(32, max(1, channels // 4))


NORMS = {
    "group": lambda part, x: residual_numpy.group_norm(x, groups_of(x.shape[-1])),
    "layer": lambda part, x: residual_numpy.group_norm(x, 1),
    "instance": lambda part, x: residual_numpy.group_norm(x, x.shape[-1]),
    "batch": residual_numpy.batch_norm,
    "none": lambda part, x: x,
}


def weighted_sum(part, terms, layer):
    weights = part[f"weights{layer}"].params.get("weights", [1] * len(terms))
    return sum(w * term for w, term in zip(weights, terms, strict=True))


def dense_shortcut(part, outputs, blocks, layer, norm="group", variant="b", offsets=None):
    read = {"a": blocks, "b": outputs}[variant]
    sources = range(layer) if offsets is None else [layer - o for o in offsets if o <= layer]
    terms = [NORMS[norm](part[f"source{i}_norm"], read[i]) for i in sources]
    return weighted_sum(part, terms, layer)


def inner_shortcut(part, z):
    return part.params["weights"] * NORMS["group"](part["norm"], z)


def ds(block=residual_numpy.bottleneck, train=False, **keywords):
    return lambda variables, images: residual_numpy.residual_network(
        variables,
        images,
        (4, 2),
        block=block,
        shortcut=partial(dense_shortcut, **keywords),
        train=train,
    )


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_dsnet_is_eq_12(train):
    assert_is("dsnet_cifar", ds(train=train), train=train, **TINY)


def test_ds2net_has_shortcuts_within_blocks_that_keep_the_size():
    block = partial(residual_numpy.bottleneck, inner=inner_shortcut)
    assert_is("ds2net_cifar", ds(block), **TINY)


def test_ds2next_has_them_with_groups():
    block = partial(residual_numpy.bottleneck, inner=inner_shortcut, groups=2)
    assert_is("ds2net_cifar", ds(block), **TINY, groups=2)


@mostly_slow(
    ("suffix", "keywords"),
    [
        ("a", {"variant": "a"}),
        ("ln", {"norm": "layer"}),
        ("bn", {"norm": "batch"}),
        ("in", {"norm": "instance"}),
        ("nonorm", {"norm": "none"}),
        ("noweight", {}),
    ],
    quick=(1, 5),
)
def test_rows_of_table_1(suffix, keywords):
    assert_is(f"dsnet_cifar_{suffix}", ds(**keywords), **TINY)
    weighted = "weights1" in shapes(f"dsnet_cifar_{suffix}", **TINY)["stage1"]
    assert weighted == (suffix != "noweight")


def test_resnet_dense_is_eq_13():
    def add_all(part, outputs, blocks, layer):
        return sum(outputs)

    def eq_13(variables, images):
        return residual_numpy.residual_network(
            variables, images, (4, 2), block=residual_numpy.bottleneck, shortcut=add_all
        )

    assert_is("resnet_dense_cifar", eq_13, **TINY)


def test_other_topologies_choose_the_shortcuts():
    sparse = {"topology": "sparse"}
    assert_is("dsnet_cifar", ds(offsets=(1, 2, 4)), **TINY, **sparse)
    window = {"topology": "windowed", "topology_args": {"window": 2}}
    stage = shapes("dsnet_cifar", **TINY, **window)["stage1"]
    rows = [stage[f"weights{layer}"]["weights"].shape for layer in (1, 2, 3)]
    assert rows == [(1, 64), (2, 64), (2, 64)]


def test_basic_blocks_have_dense_shortcuts():
    assert_is(
        "dsnet_cifar", ds(residual_numpy.basic_block), **TINY, block="basic", topology="dense"
    )


def logits(model, variables):
    images = np.random.default_rng(1).standard_normal((2, SIZE, SIZE, 3))
    return jit(lambda v, x: model.apply(v, x)[0])(variables, images)


def test_dsnet_with_identities_to_the_previous_output_is_a_resnet():
    """N the identity, W 1 for the previous output and 0 for all before."""
    with jax.enable_x64(True):
        resnet = create_model("resnet_cifar", 5, dtype=jnp.float64, **TINY)
        dsnet = create_model("dsnet_cifar_nonorm", 5, dtype=jnp.float64, **TINY)
        variables = random_variables(resnet, SIZE)
        params = {**variables["params"]}
        for i, depth in enumerate(TINY["stage_depths"], start=1):
            weights = {
                f"weights{layer}": {"weights": np.eye(layer)[-1][:, None] * np.ones(64 * i)}
                for layer in range(1, depth)
            }
            params[f"stage{i}"] = {**params[f"stage{i}"], **weights}
        np.testing.assert_allclose(
            logits(dsnet, {**variables, "params": params}),
            logits(resnet, variables),
            rtol=1e-12,
        )


def test_weights_start_at_one():
    outer = [f"stage{i}/weights{layer}/weights" for i, layer in [(1, 1), (1, 3), (2, 1)]]
    for weights in drawn("ds2net_cifar", *outer, "stage1_opening/inner_shortcut/weights", **TINY):
        np.testing.assert_array_equal(weights, np.ones_like(weights))


def test_groups_divide_the_channels():
    # 144 channels within a block of this width: 32 does not divide them, 24 does.
    assert shapes("ds2net_cifar", width=225, stage_depths=(2,))["stage1_opening"]
    with pytest.raises(UserError, match="multiples of 25, nearest 225"):
        create_model("dsnet50_cifar_w223")


# Sizes with 100 classes.
CIFAR_100 = {
    "resnet50_cifar_w25": 1_530_356,
    "dsnet50_cifar_w25": 1_536_692,
    "ds2net50_cifar_w25": 1_537_412,
    "resnet50_cifar_w50": 5_991_300,
    "dsnet50_cifar_w50": 6_003_972,
    "ds2net50_cifar_w50": 6_005_412,
    "resnet50_cifar_w100": 23_705_252,
    "dsnet50_cifar_w100": 23_730_596,
    "ds2net50_cifar_w100": 23_733_476,
    "resnet26_cifar_w25": 928_564,
    "dsnet26_cifar_w25": 929_524,
    "ds2net26_cifar_w25": 929_780,
    "resnet38_cifar_w25": 1_301_364,
    "dsnet38_cifar_w25": 1_304_244,
    "ds2net38_cifar_w25": 1_304_740,
    "resnet77_cifar_w25": 2_163_956,
    "dsnet77_cifar_w25": 2_193_332,
    "ds2net77_cifar_w25": 2_194_628,
    "resnet101_cifar_w25": 2_727_156,
    "dsnet101_cifar_w25": 2_794_420,
    "ds2net101_cifar_w25": 2_796_228,
    "resnext50_cifar_w100": 23_177_124,
    "dsnext50_cifar_w100": 23_202_468,
    "ds2next50_cifar_w100": 23_208_228,
    "resnext29_6x64d": 26_086_820,
    "dsnext29_6x64d": 26_092_196,
    "ds2next29_6x64d": 26_097_956,
    "resnext29_8x64d": 34_518_948,
    "dsnext29_8x64d": 34_524_324,
    "ds2next29_8x64d": 34_532_004,
}


def slow_if_deep(names):
    quick = re.compile("26|29_6x64d")
    return [
        pytest.param(name, marks=() if quick.search(name) else pytest.mark.slow) for name in names
    ]


@pytest.mark.parametrize("name", slow_if_deep(CIFAR_100))
def test_sizes_on_cifar_100(name):
    assert parameters(name, 100) == CIFAR_100[name]


@pytest.mark.parametrize(("name", "extra"), [("dsnet50", 25_344), ("ds2net50", 28_224)])
def test_extra_parameters_are_less_than_0_15_percent(name, extra):
    """25,557,032 of ResNet-50, and a weight for each shortcut and channel."""
    assert parameters(name, size=32) == 25_557_032 + extra
    assert extra / 25_557_032 < 0.0015


def test_ablations_have_the_weights_of_their_networks():
    base, dsnet = CIFAR_100["resnet50_cifar_w25"], CIFAR_100["dsnet50_cifar_w25"]
    for name, size in {
        "dsnet50_cifar_w25_a": dsnet,
        "dsnet50_cifar_w25_bn": dsnet,
        "dsnet50_cifar_w25_noweight": base,
        "resnet50_dense_cifar_w25": base,
    }.items():
        assert parameters(name, 100) == size


def test_wide_bottlenecks_double_the_3x3():
    wide = shapes("wide_ds2net50_2_cifar_w25")["stage2"]["layer1"]
    assert wide["conv2"]["kernel"].shape == (3, 3, 64, 64)
    assert wide["conv3"]["kernel"].shape == (1, 1, 64, 128)
    assert wide["inner_shortcut"]["weights"].shape == (64,)


def test_errors_are_printed_with_their_table():
    printed = find_printed("dsnet101_cifar_w25")
    assert (printed.table, printed.remark) == ("Table 2", "23.63 on CIFAR-100 in Table 3")
    assert printed.error == {"cifar10": 5.82, "cifar100": 23.94}
    assert "Dense Shortcuts" in find_family("dsnet101_cifar_w25").paper


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"aggregation": "concat"}, "would widen the shortcut"),
        ({"aggregation": "normalized_sum"}, "nearest: normalised_sum"),
        ({"shortcut_norm": "groups"}, "nearest: group"),
        ({"shortcut_sources": "block"}, "nearest: blocks"),
        ({"aggregation": "sum", "shortcut_norm": "batch"}, "need the aggregation 'normalised_sum'"),
        ({"attention": "sse"}, "nearest: se"),
        ({"base_width": 3}, "no channels at a width of 16; allowed: at least 4"),
    ],
)
def test_refusals_are_one_line(overrides, message):
    with pytest.raises(UserError) as caught:
        shapes("dsnet50_cifar_w25", **overrides)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_basic_blocks_have_no_inner_shortcuts():
    with pytest.raises(UserError, match="need a bottleneck"):
        create_model("ds2net18")
