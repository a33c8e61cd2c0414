"""Parameters and multiply-adds to the digit, and the sizes and FLOPs that the papers print.

counts.json holds figures measured on the reference implementations, by head size.
"""

import functools
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import pytest
from flax import linen as nn

from aggnets_jax import create_model, list_models, model_info

COUNTS = json.loads(Path(__file__).with_name("counts.json").read_text())

# Hundreds of layers: seconds to trace.
DEEP = {
    "densenet400_k12",
    "densenet_bc1001_k24",
    "densenet_bc1001_k4",
    "densenet_bc190_k40",
    "densenet_bc250_k24",
    "densenet_bc400_k24",
    "densenet_bc400_k4",
    "preact_resnet1001",
    "preact_resnet2000",
    "sparsenet_bc1001_k12",
    "sparsenet_sum1001",
    "sparsenet_sum2000",
}

# Of networks for CIFAR the size with 100 classes is printed, of these that with 10. Table 3, left,
# does so, too, though its errors are those on CIFAR-100.
PRINTED_WITH_10 = {
    "densenet400_k12",
    "densenet_bc190_k40",
    "densenet_bc250_k24",
    "sparsenet_bc1001_k12",
    *list_models("preact_resnet*"),
    *list_models("sparsenet_sum*"),
}

# Printed sizes that are not those of the network: what the network has, and why.
MISPRINTS = {
    "densenet100_k16_32_64": (61_437_700, "stem of 24"),
    "densenet100_k32_64_128": (244_506_020, "stem of 24"),
    "densenet_bc100_k16_32_64": (7_802_964, "stem of 48"),
    "densenet_bc100_k32_64_128": (30_815_556, "stem of 24"),
    "densenet_bc400_k4": (1_158_356, "unexplained; 1.12M with 10 classes"),
    "densenet_bc400_k24": (37_133_956, "the size of depth 1001"),
    "densenet264": (33_337_704, "stages (6, 12, 64, 32)"),
    "sparsenet40_k12": (193_924, "the size of k = 24"),
    "sparsenet100_k32_64_128": (28_725_604, "unresolved"),
    "sparsenet100_k36": (5_645_908, "5.65M rounded once more"),
    "sparsenet_bc100_k12": (373_348, "0.4M written with two decimals"),
    "sparsenet_bc100_k32_64_128": (17_339_780, "unresolved"),
}


_param = nn.Module.param


def _param_of_zeros(self, name, init, *arguments, **keywords):
    # Only shapes matter, and tracing the random numbers takes a third of the time.
    return _param(self, name, nn.initializers.zeros, *arguments, **keywords)


@functools.cache
def info(name, classes, **overrides):
    # In a thread, where the stack begins anew: below pytest's frames CPython 3.11 happens to get
    # and give back memory for frames at every other call, which takes half of the time.
    with mock.patch.object(nn.Module, "param", _param_of_zeros), ThreadPoolExecutor(1) as thread:
        return thread.submit(model_info, name, classes, **overrides).result()


def printed_head(name):
    if name in PRINTED_WITH_10:
        return 10
    return 1000 if create_model(name).num_classes == 1000 else 100


def rounds_to(number, text):
    """Whether `text`, such as "4.51M", is the number to as many decimals."""
    digits, unit = text[:-1], {"M": 1e6, "G": 1e9}[text[-1]]
    decimals = len(digits.partition(".")[2])
    return f"{number / unit:.{decimals}f}" == digits


def stages(model):
    """The channels into each stage of a SparseNet, and out of it, from the topologies alone."""
    channels = model.stem_features
    for topology, k in zip(model.topologies, model.growth_rates, strict=True):
        outputs = topology.aggregated_features(k, channels)[-1]
        yield topology, k, channels, outputs
        channels = int(model.compression * outputs)


def head_features(name):
    model = create_model(name)
    if hasattr(model, "growth_rates"):
        return [*stages(model)][-1][-1]
    return 4 * 64


def marked(names):
    return [pytest.param(n, marks=pytest.mark.slow if n in DEEP else ()) for n in names]


@pytest.mark.parametrize("name", marked(COUNTS))
def test_counts_are_those_of_the_reference(name):
    heads = {int(classes): counts for classes, counts in COUNTS[name]["classes"].items()}
    first = 1000 if 1000 in heads else 10
    counted = info(name, first)
    assert list(counted.input_shape) == COUNTS[name]["input"]
    assert counted.num_classes == first
    assert (counted.params, counted.macs) == (heads[first]["params"], heads[first]["macs"])


@pytest.mark.parametrize("name", [name for name in COUNTS if "100" in COUNTS[name]["classes"]])
def test_another_head_changes_only_the_classifier(name):
    ten, hundred = (COUNTS[name]["classes"][classes] for classes in ("10", "100"))
    features = head_features(name)
    assert hundred["params"] - ten["params"] == 90 * (features + 1)
    assert hundred["macs"] - ten["macs"] == 90 * features


@pytest.mark.parametrize(
    "name", ["densenet40_k12", "sparsenet40_k12", "sparsenet_bc100_k24", "sparsenet_sum56"]
)
def test_counts_with_100_classes(name):
    counted = info(name, 100)
    expected = COUNTS[name]["classes"]["100"]
    assert (counted.params, counted.macs) == (expected["params"], expected["macs"])


@pytest.mark.parametrize("name", marked(list_models()))
def test_every_listed_model_has_its_printed_size(name):
    classes = printed_head(name)
    if name in COUNTS:
        heads = COUNTS[name]["classes"]
        params = heads[str(classes)]["params"]
        printed = info(name, 1000 if "1000" in heads else 10).printed
    else:
        counted = info(name, classes)
        params, printed = counted.params, counted.printed
    assert rounds_to(params, printed.params) == (name not in MISPRINTS)
    if name in MISPRINTS:
        assert params == MISPRINTS[name][0]


def test_tables_here_are_of_listed_models():
    assert {*MISPRINTS, *DEEP, *COUNTS, *PRINTED_WITH_10} <= set(list_models())


@pytest.mark.parametrize(
    ("name", "overrides", "printed"),
    [
        ("densenet100_k16_32_64", {"stem_features": 24}, "61.1M"),
        ("densenet100_k32_64_128", {"stem_features": 24}, "241.6M"),
        ("densenet_bc100_k32_64_128", {"stem_features": 24}, "30.5M"),
        ("densenet_bc100_k16_32_64", {"stem_features": 48}, "7.9M"),
        ("densenet264", {"stage_depths": (6, 12, 64, 32)}, "27.21M"),
    ],
)
def test_misprint_is_the_size_of_another_network(name, overrides, printed):
    counted = info(name, printed_head(name), **overrides)
    assert rounds_to(counted.params, printed)
    assert info(name, 1000 if printed_head(name) == 1000 else 10).printed.params == printed


IMAGENET_SPARSENETS = [
    ("sparsenet121_k32", 4_513_576, 3_233_576),
    ("sparsenet169_k32", 6_228_616, 4_692_616),
    ("sparsenet201_k32", 7_221_896, 5_685_896),
    ("sparsenet201_k48", 14_907_736, 12_603_736),
]


@pytest.mark.parametrize(("name", "flatten", "global_pool"), IMAGENET_SPARSENETS)
def test_imagenet_sparsenets_feed_nine_values_of_each_channel(name, flatten, global_pool):
    assert info(name, 1000).params == flatten
    assert flatten - global_pool == (9 - 1) * 1000 * head_features(name)


@pytest.mark.parametrize(("name", "params"), [(row[0], row[2]) for row in IMAGENET_SPARSENETS[::3]])
def test_imagenet_sparsenets_with_a_global_pool(name, params):
    assert info(name, 1000, pool="global").params == params


def test_densenet201_has_the_size_of_other_implementations():
    assert info("densenet201", 1000).params == 20_013_928


@pytest.mark.parametrize("n", [1, 6, 12, 22])
def test_sparse_and_dense_sums_have_the_same_size(n):
    dense, sparse = info(f"preact_resnet{9 * n + 2}", 10), info(f"sparsenet_sum{9 * n + 2}", 10)
    assert (dense.params, dense.macs) == (sparse.params, sparse.macs)
    assert dense.links == 3 * n * (n + 1) // 2
    assert sparse.links == 3 * sum(layer.bit_length() for layer in range(1, n + 1))


@pytest.mark.slow
def test_sparse_and_dense_sums_of_1001_layers_have_the_printed_size():
    dense, sparse = info("preact_resnet1001", 10), info("sparsenet_sum1001", 10)
    assert dense.params == sparse.params == 10_327_706
    assert rounds_to(dense.params, "10.33M")
    assert dense.printed.params == sparse.printed.params == "10.33M"


def norm_and_pool_operations(model):
    """Outputs of the normalisations, and reads of the poolings, of an ImageNet network at 224."""
    norms = model.stem_features * 112**2
    pools = 9 * model.stem_features * 56**2
    for i, (topology, k, channels, outputs) in enumerate(stages(model)):
        pixels = (56 // 2**i) ** 2
        reads = topology.aggregated_features(k, channels)[:-1]
        norms += pixels * sum(read + 4 * k for read in reads)
        norms += pixels * outputs
        if i < 3:
            pools += 4 * (pixels // 4) * int(model.compression * outputs)
    return norms, pools + outputs * (9 * 4 if model.pool == "flatten" else 49)


@pytest.mark.parametrize(
    "name", ["densenet121", "densenet169", "densenet201", *(row[0] for row in IMAGENET_SPARSENETS)]
)
def test_printed_flops_of_table_4(name):
    model, counted = create_model(name), info(name, 1000)
    norms, pools = norm_and_pool_operations(model)
    weights = 1000 * head_features(name) * (9 if model.pool == "flatten" else 1)
    # A ReLU follows every normalisation.
    flops = 2 * (counted.macs - weights) + 2 * norms + pools + 2 * weights + 1000
    assert rounds_to(flops, counted.printed.flops)


def test_rounding_of_printed_sizes():
    assert rounds_to(757_252, "0.8M")
    assert rounds_to(4_513_576, "4.51M")
    assert not rounds_to(4_515_576, "4.51M")
    assert rounds_to(3.4646e9, "3.46G")
