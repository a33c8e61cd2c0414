"""SeqResNets by name: sizes to the digit, what the paper prints, what can be swapped."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax import create_model, list_models, make_topology
from aggnets_jax.convert import from_torch, to_torch
from aggnets_jax.models.flops import count_operations
from aggnets_jax.models.registry import find_printed
from aggnets_jax.models.seqresnet import SeqResNet, SeqResNeXt
from tests.models import golden
from tests.models.misprints import rounds_to
from tests.models.test_counts import fast_tracing, info
from tests.models.variables import random_variables
from tests.patterns import one_line_error

# name: printed parameters, {classes: (parameters, multiply-adds)}
COUNTS = {
    "seqresnet_k8_r4_n1": ("1.2M", {10: (1_233_370, 282_085_248), 100: (1_250_740, 282_102_528)}),
    "seqresnet_k16_r4_n1": ("1.3M", {10: (1_254_106, 282_969_984), 100: (1_271_476, 282_987_264)}),
    "seqresnet_k16_r3_n122": ("1.3M", {10: (1_256_154, 227_820_960)}),
    "seqresnet_k8_r3_n121_full": (
        "1.2M",
        {10: (1_229_658, 282_232_224), 100: (1_242_708, 282_245_184)},
    ),
    "seqresnet_k16_r10_n1": ("7.6M", {10: (7_627_354, 1_724_207_808)}),
    "seqresnet_b_k16_r7_n1": ("0.8M", {10: (843_834, 204_360_992), 100: (874_164, 204_391_232)}),
    "seqresnet_b_k32_r12_n3": (
        "6.0M",
        {10: (6_029_658, 1_417_205_376), 100: (6_081_588, 1_417_257_216)},
    ),
    "seqresnet_b22": ("11.8M", {1000: (11_859_656, 2_882_732_032)}),  # cut off
    "seqresnet_b42": ("25.6M", {1000: (25_642_696, 5_644_419_072)}),
    "seqresnext24": ("26.2M", {1000: (26_211_784, 4_543_979_520)}),
}
# A second or two to trace.
DEEP = {*COUNTS} - {"seqresnet_k16_r3_n122", "seqresnet_k16_r4_n1"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in DEEP else ()) for n in COUNTS]
)
def test_counts_and_printed_sizes(name):
    text, heads = COUNTS[name]
    for classes, counts in heads.items():
        found = info(name, classes)
        assert (found.params, found.macs) == counts
        assert found.printed.params == text
    # For CIFAR the size with 10 classes is printed.
    params, _ = next(iter(heads.values()))
    cut_off = f"{math.floor(params / 1e5) / 10:.1f}M"
    assert text == cut_off if name == "seqresnet_b22" else rounds_to(params, text)


def test_all_rows_are_listed():
    assert list_models("seqres*") == sorted(COUNTS)


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("seqresnet_b22", "2.73G"),
        pytest.param("seqresnet_b42", "5.33G", marks=pytest.mark.slow),
        pytest.param("seqresnext24", "4.32G", marks=pytest.mark.slow),
    ],
)
def test_printed_flops_of_table_4(name, printed):
    model = create_model(name)
    with fast_tracing() as run:
        counted = run(count_operations, model, (224, 224, 3))
    assert counted.norms == counted.rectified
    assert counted.linear_macs == 1000 * model.widths[-1]
    assert counted.pooled == 49 * model.widths[-1]
    flops = counted.conv_macs + 4 * counted.norms + counted.rectified
    flops += 2 * counted.linear_macs + counted.pooled
    assert f"{math.floor(flops / 2**30 * 100) / 100:.2f}G" == printed
    assert find_printed(name).flops == printed


def test_windowed_layers_are_as_large_as_ordinary_convolutions():
    # Section 3.1. A norm has two parameters for each channel.
    params = jax.eval_shape(
        create_model("seqresnet_k8_r2_n1").init, jax.random.key(0), jnp.zeros((1, 8, 8, 3))
    )["params"]

    def size(layer):
        return sum(leaf.size for leaf in jax.tree.leaves(layer))

    for stage, width in enumerate((32, 64, 96), start=1):
        block = params[f"stage{stage}"]["layer1"]
        for layer in ("seqconv_a", "seqconv_b"):
            assert size(block[layer]) == 9 * width**2 + 2 * width
    assert size(params["stem_seqconv"]) == sum(9 * 8 * (16 + 8 * i) for i in range(4)) + 2 * 32


@pytest.mark.parametrize(
    ("name", "family", "numbers"),
    [
        ("seqresnet_k8_r5_n2", "seqresnet", {"group_width": 8, "widening": 5, "blocks": 2}),
        (
            "seqresnet_k8_r3_n121_full",
            "seqresnet",
            {"group_width": 8, "widening": 3, "blocks": (1, 2, 1), "topology": "dense"},
        ),
        ("seqresnet_k4_r1_n12", "seqresnet", {"group_width": 4, "widening": 1, "blocks": 12}),
        (
            "seqresnet_b_k8_16_16_r2_n1_2_12",
            "seqresnet_b",
            {"group_width": (8, 16, 16), "widening": 2, "blocks": [1, 2, 12]},
        ),
        (
            "seqresnext_k16_c4_r7_n1",
            "seqresnext",
            {"group_width": 16, "cardinality": 4, "widening": 7, "blocks": 1},
        ),
        ("seqresnet_b42", "seqresnet_b_imagenet", {"depth": 42}),
        ("seqresnet_b42", "seqresnet_b_imagenet", {"blocks": (3, 4, 5, 3)}),
        ("seqresnet_b24_full", "seqresnet_b_imagenet", {"depth": 24, "topology": "dense"}),
        ("seqresnext24", "seqresnext_imagenet", {"depth": 24}),
        ("seqresnext42_full", "seqresnext_imagenet", {"depth": 42, "topology": "dense"}),
    ],
)
def test_a_name_is_its_family_and_numbers(name, family, numbers):
    assert create_model(name) == create_model(family, **numbers)


def test_ways_that_families_differ():
    assert type(create_model("seqresnext24")) is SeqResNeXt
    assert type(create_model("seqresnet_b22")) is SeqResNet
    assert create_model("seqresnext_k16_c1_r7_n1") == create_model("seqresnet_b_k16_r7_n1")
    full = create_model("seqresnet_b22_full")
    assert full != create_model("seqresnet_b22")
    assert full == create_model("seqresnet_b22", topology="dense")
    assert create_model("seqresnet_b22_full", topology="windowed") == create_model("seqresnet_b22")
    assert info("seqresnet_b22_full", 1000).params == 13_442_760


def test_group_patterns_of_the_stages():
    model = create_model("seqresnet_k8_r2_n1", topology=["windowed", "sparse", "windowed"])
    assert [t.sources for t in model.layer_topologies] == [
        make_topology("windowed", 7, window=4).sources,
        make_topology("sparse", 15).sources,
        make_topology("windowed", 23, window=12).sources,
    ]
    model = create_model("seqresnet_k8_r2_n1", topology_args={"window": 2})
    assert [t.sources for t in model.layer_topologies] == [
        make_topology("windowed", depth, window=2).sources for depth in (7, 15, 23)
    ]


def test_topologies_are_those_of_all_layers():
    model = create_model("seqresnet_k8_r1_n2")
    stage1, stage2, stage3, stem, *others = model.topologies
    # Two groups: the first reads both slices of the input, the second one of them and the first.
    assert stage1.sources == ((0,), (0, 1), (1, 2))
    assert stage2.sources[-2:] == ((0, 1, 2, 3), (1, 2, 3, 4))
    assert stem.sources == ((0,), (0, 1), (1, 2))
    assert len(others) == 3 * 3 + 2
    assert [t.depth for t in others[-2:]] == [2, 2]
    windowed, full = create_model("seqresnet_k8_r1_n2"), create_model("seqresnet_k8_r1_n2_full")
    assert stage3.num_links == full.topologies[2].num_links == 6 * 7 // 2
    assert len(windowed.topologies) == len(full.topologies)


@pytest.mark.parametrize(
    ("topology", "aggregation"),
    [
        pytest.param("sparse", "concat", marks=pytest.mark.slow),
        pytest.param("windowed", "concat", marks=pytest.mark.slow),
        ("plain", "sum"),
    ],
)
def test_nothing_is_without_gradient(topology, aggregation):
    model = create_model("seqresnet_b_k8_r1_n1", topology=topology, aggregation=aggregation)
    variables = random_variables(model, 8, np.float32)
    images = np.random.default_rng(0).standard_normal((4, 8, 8, 3)).astype(np.float32)

    def loss(stage2):
        params = {**variables["params"], "stage2": stage2}
        (logits, _), _ = model.apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        return (logits[:, 0] * jnp.arange(4)).sum() + logits[:, 1:].max()

    options = {"xla_backend_optimization_level": 0}
    gradient = jax.jit(jax.grad(loss), compiler_options=options)(variables["params"]["stage2"])
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.abs(leaf).max() > 0, jax.tree_util.keystr(path)


def test_endpoints():
    images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    model = create_model("seqresnet_b22", dtype=jnp.bfloat16)
    (_, endpoints), variables = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
    assert {name: value.shape for name, value in endpoints.items()} == {
        "stem": (2, 16, 16, 128),
        "stage1": (2, 16, 16, 128),
        "stage2": (2, 8, 8, 256),
        "stage3": (2, 4, 4, 512),
        "stage4": (2, 2, 2, 1024),
        "pre_logits_2d": (2, 2, 2, 1024),
        "pre_logits": (2, 1024),
        "logits": (2, 1000),
    }
    assert endpoints.pop("logits").dtype == jnp.float32
    assert {x.dtype for x in endpoints.values()} == {jnp.dtype(jnp.bfloat16)}
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize(
    "file",
    [
        "seqresnet_k8_r4_n1_c10",
        pytest.param("seqresnet_b22_c1000", marks=pytest.mark.slow),
        pytest.param("seqresnet_b_k16_r7_n1_c100", marks=pytest.mark.slow),
        pytest.param("seqresnext24_c1000", marks=pytest.mark.slow),
    ],
)
def test_weights_go_to_the_reference_and_back(file):
    reference = golden.load(file)
    name, classes = reference["model"], reference["num_classes"]
    weights = {
        key: np.zeros(shape, np.int64)
        if key.endswith("num_batches_tracked")
        else np.full(shape, number, np.float32)
        for number, (key, shape) in enumerate(reference["state_dict"].items())
    }
    returned = to_torch(name, from_torch(name, weights, num_classes=classes), num_classes=classes)
    assert returned.keys() == weights.keys()
    for key, value in weights.items():
        np.testing.assert_array_equal(returned[key], value, err_msg=key)


@pytest.mark.parametrize(
    ("name", "overrides", "said"),
    [
        ("seqresnet_k32_r3_n1", {}, "stage 1: 48 channels .* group_width 32; nearest 24"),
        ("seqresnet_k8_8_24_r3_n1", {"group_width": (8, 32, 24)}, "stage 2: 48 channels .* 32"),
        ("seqresnet_k8_r0_n1", {}, "widening must be a whole number of at least 1, got 0"),
        ("seqresnet_k8_r1_n0", {}, "blocks must be a whole number of at least 1, got 0"),
        ("seqresnet_k8_r1_n1_2", {}, "blocks has 2 values for 3 stages"),
        ("seqresnet_k8_r1_n1", {"cardinality": 2}, "without bottleneck have no subgroups"),
        ("seqresnext_k8_c3_r1_n1", {}, "group_width 8 is not divisible by cardinality 3"),
        ("seqresnet_b50", {}, r"no network of depth 50; allowed: \[22, 24, 42\]"),
        ("seqresnet_b_imagenet", {}, "needs the argument .depth.; allowed"),
        ("seqresnet_b22", {"width": 100}, "stage 1: 100 channels .* 32; nearest 25"),
        ("seqresnet_k8_r1_n1", {"aggregation": "summ"}, "nearest: sum"),
        ("seqresnet_k8_r1_n1", {"dropout": 1.0}, "dropout must be"),
        ("seqresnet_k8_r1_n1", {"topology": "windoed"}, "nearest: windowed"),
        ("seqresnet_k8_r1_n1", {"topology_args": {"windw": 2}}, "nearest: window"),
        ("seqresnet_k8_r1_n1", {"topology_args": 3}, "topology_args"),
        ("seqresnet_k8_r1", {}, "nearest: seqresnet_k8_r4_n1"),
    ],
)
def test_numbers_that_fit_no_network(name, overrides, said):
    assert re.search(said, one_line_error(create_model, name, **overrides))


def test_a_group_that_nothing_reads_is_told():
    # y_0 and y_1 are the input, y_2 and y_3 the groups; the first layer's y_2 is y_0 of the second.
    edges = [(1, 0), (2, 1), (3, 1), (4, 3)]
    message = one_line_error(
        create_model,
        "seqresnet_k8_r1_n1",
        topology=["custom", "windowed", "windowed"],
        topology_args=[{"edges": edges}, {}, {}],
    )
    assert "nothing reads group 1 of 2 in the first layer" in message
    edges[2] = (3, 2)
    create_model(
        "seqresnet_k8_r1_n1",
        topology=["custom", "windowed", "windowed"],
        topology_args=[{"edges": edges}, {}, {}],
    )
