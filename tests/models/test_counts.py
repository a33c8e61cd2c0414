"""Parameters, multiply-adds and FLOPs to the digit, and what the papers print.

docs/models.md is the golden table of all listed networks: here it is compared with the networks,
with counts.json, which holds figures measured on reference implementations, and with the prints.
"""

import contextlib
import functools
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import pytest
from flax import linen as nn

from aggnets_jax import create_model, list_models, model_info
from aggnets_jax.models import page, papers, registry
from aggnets_jax.models.flops import (
    Count,
    Operations,
    count,
    count_operations,
    in_binary_units,
    with_elementwise,
)
from aggnets_jax.models.registry import find_family, find_printed
from tests.marks import mostly_slow
from tests.models.misprints import (
    ELSEWHERE,
    FLOPS_MISPRINTS,
    MISPRINTS,
    PRINTED_WITH_10,
    rounds_to,
)
from tests.models.variables import starting_from_zeros

ROWS = page.rows()
COUNTS = json.loads(Path(__file__).with_name("counts.json").read_text())


def _numbers(name):
    return [int(number) for number in re.findall(r"\d+", name)]


# Of each family the network with the smallest numbers, if it is no long one; tracing them all takes
# minutes.
SMALLEST = {
    find_family(name).name: name for name in sorted(list_models(), key=_numbers, reverse=True)
}
QUICK = {*SMALLEST.values()} - {
    *(name for name in SMALLEST.values() if re.match("(amoeba|enas|nas|pnas)net", name)),
    *("aognet_12m", "cbam_resnet50", "condensenet86_k8_16_32", "densenet121", "densenet_bc100_k12"),
    *("dpn68", "hardnet39ds", "hcgnet_a1", "hcgnet_c", "mdnet21_a64_n5", "mixnet100_k12_12"),
    *(
        "micro_dense_resnext164_w25",
        "mixnet105",
        "pyramidnet110_a48",
        "pyramidnet_imagenet200_a300",
    ),
    *("pyramidnet_bottleneck164_a270", "res2net50_14w_8s", "res2net54_2w_16s_w64_128_256"),
    *("res2next50_8x4d_4s", "seqresnet_b22", "seqresnet_b_k16_r7_n1", "seqresnet_k8_r3_n121_full"),
    *("seqresnext24", "sknet50", "sparsenet121_k32", "sparsenet_bc100_k12"),
}

# A network's MACs, its FLOPs and its size need the same counts.
_count = functools.cache(registry.count)


@contextlib.contextmanager
def fast_tracing():
    # In a thread, where the stack begins anew: below pytest's frames CPython 3.11 happens to get
    # and give back memory for frames at every other call, which takes half of the time.
    once = mock.patch.object(registry, "count", _count)
    with starting_from_zeros(), once, ThreadPoolExecutor(1) as thread:
        yield lambda *arguments, **keywords: thread.submit(*arguments, **keywords).result()


def info(name, classes, **overrides):
    with fast_tracing() as run:
        return run(model_info, name, classes, **overrides)


def marked(names):
    return [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in names]


def test_every_listed_model_is_in_the_table():
    missing = sorted(set(list_models()) ^ set(ROWS))
    assert not missing, "aggnets models --page > docs/models.md"


def test_the_table_has_the_remarks_of_the_papers_rows():
    """Without counting, so in the fast tests for all networks."""
    for name, printed in papers.first_rows().items():
        assert ROWS[name].line.endswith(f" {printed.remark} |"), name


@pytest.mark.parametrize("name", marked(list_models()))
def test_the_table_is_that_of_the_networks(name):
    with fast_tracing() as run:
        assert run(page.row, name) == ROWS[name].line


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_those_of_the_reference(name):
    row, reference = ROWS[name], COUNTS[name]
    for classes, counts in reference["classes"].items():
        assert row.params[int(classes)] == counts["params"]
        if counts["macs"] is not None:
            assert row.macs_with(int(classes)) == counts["macs"]


@pytest.mark.parametrize("name", ["densenet40_k12", "sparsenet_bc100_k24", "sparsenet_sum56"])
def test_another_head_is_counted(name):
    counted = info(name, 100)
    assert counted.params == ROWS[name].params[100]
    assert counted.macs == ROWS[name].macs_with(100)


@pytest.mark.parametrize("name", list_models())
def test_printed_sizes(name):
    row = ROWS[name]
    text = find_printed(name).params
    classes = next(n for n in ([10] if name in PRINTED_WITH_10 else [100, 1000]) if n in row.params)
    if name in MISPRINTS:
        assert row.params[classes] == MISPRINTS[name][0]
        assert not rounds_to(row.params[classes], text)
        assert find_printed(name).remark
    elif text:
        assert rounds_to(row.params[classes], text)
    elif name in ELSEWHERE:
        assert row.params[classes] == ELSEWHERE[name]
    else:
        assert name in COUNTS or row.params[classes] == bottlenecks_on_cifar(name, classes)


def bottlenecks_on_cifar(name, classes):
    """The size of a network of Zhang et al. (DSNet, Tables 1 to 5), from the widths alone."""
    wide, kind, depth, _, width, variant = re.fullmatch(
        r"(wide_)?(ds2|ds|res)n(?:e|ex)t(\d+)(?:_2)?(_dense)?_cifar_w(\d+)_?(\w*)", name
    ).groups()
    blocks = {26: (2,) * 4, 38: (3,) * 4, 50: (3, 4, 6, 3), 77: (3, 4, 15, 3), 101: (3, 4, 23, 3)}
    channels = int(width) * 64 // 100
    total, groups = 9 * 3 * channels + 2 * channels, 32 if "next" in name else 1
    for i, n in enumerate(blocks[int(depth)]):
        outer = 4 * (inner := 2**i * int(width) * 64 // 100)
        inner *= 2 if wide or groups > 1 else 1
        fixed = 9 * inner * inner // groups + inner * outer + 4 * inner + 2 * outer
        total += n * fixed + inner * (channels + (n - 1) * outer) + outer * (channels + 2)
        if kind != "res" and variant != "noweight":
            total += outer * n * (n - 1) // 2
        if kind == "ds2":
            total += inner * (n if i == 0 else n - 1)
        channels = outer
    return total + (channels + 1) * classes


@pytest.mark.parametrize(
    "name", [n for n in list_models("*net*_cifar_w*") if n in COUNTS and "shuffle" not in n]
)
def test_the_formula_of_bottleneck_networks(name):
    assert bottlenecks_on_cifar(name, 100) == COUNTS[name]["classes"]["100"]["params"]


@pytest.mark.parametrize("name", [n for n in list_models() if find_printed(n).flops])
def test_printed_flops(name):
    agrees = rounds_to(ROWS[name].flops, find_printed(name).flops)
    assert agrees == (name not in FLOPS_MISPRINTS)


def test_tables_here_are_of_listed_models():
    assert {*MISPRINTS, *FLOPS_MISPRINTS, *ELSEWHERE, *COUNTS, *PRINTED_WITH_10} <= set(
        list_models()
    )
    assert list_models() == sorted(ROWS)


@mostly_slow(
    ("name", "overrides", "printed"),
    [
        ("densenet100_k16_32_64", {"stem_features": 24}, "61.1M"),
        ("densenet100_k32_64_128", {"stem_features": 24}, "241.6M"),
        ("densenet_bc100_k32_64_128", {"stem_features": 24}, "30.5M"),
        ("densenet_bc100_k16_32_64", {"stem_features": 48}, "7.9M"),
        ("densenet264", {"stage_depths": (6, 12, 64, 32)}, "27.21M"),
    ],
    quick=(2, 3),
)
def test_misprint_is_the_size_of_another_network(name, overrides, printed):
    counted = info(name, 1000 if name == "densenet264" else 100, **overrides)
    assert rounds_to(counted.params, printed)
    assert find_printed(name).params == printed


IMAGENET_SPARSENETS = [
    ("sparsenet121_k32", 4_513_576, 3_233_576),
    ("sparsenet169_k32", 6_228_616, 4_692_616),
    ("sparsenet201_k32", 7_221_896, 5_685_896),
    ("sparsenet201_k48", 14_907_736, 12_603_736),
]


@pytest.mark.parametrize(("name", "flatten", "global_pool"), IMAGENET_SPARSENETS)
def test_imagenet_sparsenets_feed_nine_values_of_each_channel(name, flatten, global_pool):
    assert ROWS[name].params[1000] == flatten
    *_, outputs = (features for *_, features in stages(create_model(name)))
    assert flatten - global_pool == (9 - 1) * 1000 * outputs


@pytest.mark.parametrize(("name", "params"), [(row[0], row[2]) for row in IMAGENET_SPARSENETS[::3]])
def test_imagenet_sparsenets_with_a_global_pool(name, params):
    assert info(name, 1000, pool="global").params == params


def test_densenet201_has_the_size_of_other_implementations():
    assert ROWS["densenet201"].params[1000] == 20_013_928


@pytest.mark.parametrize("n", [1, 6])
def test_sparse_and_dense_sums_have_the_same_size(n):
    dense, sparse = info(f"preact_resnet{9 * n + 2}", 10), info(f"sparsenet_sum{9 * n + 2}", 10)
    assert (dense.params, dense.macs) == (sparse.params, sparse.macs)
    assert dense.links == 3 * n * (n + 1) // 2
    assert sparse.links == 3 * sum(layer.bit_length() for layer in range(1, n + 1))


def stages(model):
    """The channels into each stage of a SparseNet, and out of it, from the topologies alone."""
    channels = model.stem_features
    for topology, k in zip(model.topologies, model.growth_rates, strict=True):
        outputs = topology.aggregated_features(k, channels)[-1]
        yield topology, k, channels, outputs
        channels = int(model.compression * outputs)


@pytest.mark.parametrize("name", ["densenet121", "sparsenet201_k48"])
def test_elementwise_operations_follow_from_the_topologies(name):
    """Outputs of the normalisations, and reads of the poolings, of ImageNet networks at 224."""
    model = create_model(name)
    norms, pools = model.stem_features * 112**2, 9 * model.stem_features * 56**2
    for i, (topology, k, channels, outputs) in enumerate(stages(model)):
        pixels = (56 // 2**i) ** 2
        reads = topology.aggregated_features(k, channels)[:-1]
        norms += pixels * (sum(read + 4 * k for read in reads) + outputs)
        if i < 3:
            pools += 4 * (pixels // 4) * int(model.compression * outputs)
    pools += outputs * (9 * 4 if model.pool == "flatten" else 49)
    with fast_tracing() as run:
        counted = run(count_operations, model, (224, 224, 3))
    assert (counted.norms, counted.rectified, counted.pooled) == (norms, norms, pools)
    assert counted.linear_macs == 1000 * outputs * (9 if model.pool == "flatten" else 1)
    assert counted.linear_biases == 1000


def test_a_binary_giga_is_truncated():
    operations = Operations(2**31, 2**28, 1000, 2**20, 2**20, 2**20)
    assert in_binary_units(operations) == pytest.approx(2.5e9)
    more = operations._replace(norms=3 * operations.norms)
    assert in_binary_units(more) == pytest.approx(2.51e9)


def test_two_operations_for_each_element_of_a_norm():
    assert with_elementwise(Operations(1000, 10, 7, 3, 2, 1)) == 1000 + 10 + 2 * 3 + 2 + 1


def test_rounding_of_printed_sizes():
    assert rounds_to(757_252, "0.8M")
    assert rounds_to(4_513_576, "4.51M")
    assert not rounds_to(4_515_576, "4.51M")
    assert rounds_to(3.4646e9, "3.46G")


class _Two(nn.Module):
    """A convolution and a linear layer."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(4, (3, 3), use_bias=False, name="conv")(x)
        return nn.Dense(5, name="classifier")(x.mean((1, 2)))


def test_costs_of_parts_are_those_of_their_layers():
    assert count(_Two(), (8, 8, 3)) == {
        "conv": Count(3 * 3 * 3 * 4, 8 * 8 * 3 * 3 * 3 * 4, 8 * 8 * (3 + 4)),
        "classifier": Count(4 * 5 + 5, 4 * 5, 4 + 5),
    }
