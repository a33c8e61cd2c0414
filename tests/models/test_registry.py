"""Networks by name: what timm users expect of create_model, list_models and model_info."""

import re

import jax.numpy as jnp
import pytest
from flax import linen as nn

from aggnets_jax import create_model, list_families, list_models, make_topology, model_info
from aggnets_jax.models import registry
from tests.patterns import one_line_error


@pytest.mark.parametrize("name", list_models())
def test_every_listed_name_builds(name):
    model = create_model(name)
    assert isinstance(model, nn.Module)
    assert model.num_classes in (10, 1000)
    assert create_model(name, 7).num_classes == 7
    assert create_model(name) == model


def test_list_models_filters_and_sorts():
    names = list_models()
    assert names == sorted(set(names))
    assert {"densenet40_k12", "sparsenet_bc100_k24", "preact_resnet110"} <= set(names)
    listed = list_models("sparsenet*")
    assert listed == [name for name in names if name.startswith("sparsenet")]
    assert 0 < len(listed) < len(names)
    assert list_models("*_bc*_k12") == [
        "densenet_bc100_k12",
        "sparsenet_bc1001_k12",
        "sparsenet_bc100_k12",
        "sparsenet_bc400_k12",
    ]
    assert list_models("densenet40_k12") == ["densenet40_k12"]
    assert list_models("nothing*") == []


def test_a_network_in_the_place_of_its_name_is_told_in_one_line():
    message = one_line_error(create_model, create_model("densenet40_k12"))
    assert message == "a network is given by its name, such as 'resnet18', not by DenseNet"


def test_list_families():
    families = list_families()
    assert families == sorted(families)
    assert {"sparsenet", "sparsenet_bc", "densenet", "densenet_imagenet", "preact_resnet"} <= set(
        families
    )


@pytest.mark.parametrize(
    ("name", "family", "numbers"),
    [
        ("densenet_bc160_k18", "densenet_bc", {"depth": 160, "growth_rate": 18}),
        ("sparsenet_bc100_k24", "sparsenet_bc", {"depth": 100, "growth_rate": 24}),
        ("sparsenet100_k16_32_64", "sparsenet", {"depth": 100, "growth_rate": (16, 32, 64)}),
        ("sparsenet100_k16_32_64", "sparsenet", {"depth": 100, "growth_rate": [16, 32, 64]}),
        ("densenet40_k12_12_12", "densenet", {"depth": 40, "growth_rate": 12}),
        ("preact_resnet29", "preact_resnet", {"depth": 29}),
        ("sparsenet_sum29", "sparsenet_sum", {"depth": 29}),
        ("densenet169", "densenet_imagenet", {"depth": 169}),
        ("densenet169_k48", "densenet_imagenet", {"depth": 169, "growth_rate": 48}),
        ("sparsenet121_k32", "sparsenet_imagenet", {"depth": 121, "growth_rate": 32}),
    ],
)
def test_a_name_is_its_family_and_numbers(name, family, numbers):
    assert create_model(name) == create_model(family, **numbers)
    assert create_model(name, 5) == create_model(family, num_classes=5, **numbers)


def test_ways_that_families_differ():
    def one(name, **overrides):
        return create_model(name, **overrides)

    assert {t.name for t in one("densenet40_k12").topologies} == {"dense"}
    assert {t.name for t in one("sparsenet40_k12").topologies} == {"sparse"}
    assert one("densenet40_k12", topology="sparse") == one("sparsenet40_k12")
    assert one("preact_resnet56", topology="sparse") == one("sparsenet_sum56")
    bc = one("sparsenet", depth=100, growth_rate=12, bottleneck=True, compression=0.5)
    assert bc.topologies != one("sparsenet100_k12").topologies
    assert bc == one("sparsenet_bc100_k12")


def test_an_imagenet_depth_is_an_imagenet_network_and_cifar_by_family():
    assert create_model("sparsenet121_k32").imagenet_stem
    assert not create_model("sparsenet", depth=121, growth_rate=32).imagenet_stem


def test_depths_of_the_stages():
    def depths(name, **overrides):
        return [t.depth for t in create_model(name, **overrides).topologies]

    assert depths("densenet40_k12") == [12, 12, 12]
    assert depths("sparsenet100_k24") == [32, 32, 32]
    assert depths("sparsenet_bc100_k24") == [16, 16, 16]
    assert depths("sparsenet_bc400_k12") == [66, 66, 66]
    assert depths("sparsenet_bc1001_k12") == [166, 166, 166]
    assert depths("preact_resnet1001") == [111, 111, 111]
    assert depths("densenet121") == [6, 12, 24, 16]
    assert depths("densenet169") == [6, 12, 32, 32]
    assert depths("sparsenet201_k48") == [6, 12, 48, 32]
    assert depths("sparsenet40_k12", stage_depths=(1, 2)) == [1, 2]


def test_stem_features():
    assert create_model("sparsenet100_k16_32_64").stem_features == 32
    assert create_model("densenet121").stem_features == 64
    assert create_model("sparsenet201_k48").stem_features == 48
    assert create_model("sparsenet40_k12", stem_features=16).stem_features == 16


def test_overrides_reach_the_module():
    model = create_model(
        "sparsenet40_k12",
        100,
        topology=["plain", "windowed", "custom"],
        topology_args=[{}, {"window": 3}, {"edges": make_topology("harmonic", 12).links}],
        aggregation="mean",
        dropout=0.2,
        dtype=jnp.bfloat16,
        growth_rate=(8, 12, 16),
        groups=4,
    )
    assert model.num_classes == 100
    assert [t.sources for t in model.topologies] == [
        make_topology("plain", 12).sources,
        make_topology("windowed", 12, window=3).sources,
        make_topology("harmonic", 12).sources,
    ]
    assert (model.aggregation, model.dropout, model.dtype) == ("mean", 0.2, jnp.bfloat16)
    assert (model.growth_rates, model.stem_features, model.groups) == ((8, 12, 16), 16, 4)


def test_model_info():
    info = model_info("sparsenet40_k24")
    assert (info.name, info.family) == ("sparsenet40_k24", "sparsenet")
    assert (info.input_shape, info.num_classes) == ((32, 32, 3), 10)
    assert (info.params, info.macs) == (748_522, 312_054_720)
    assert info.links == 3 * sum(layer.bit_length() for layer in range(1, 13))
    assert "1801.05895" in info.paper
    assert (info.table, info.printed.params) == ("Table 2", "0.8M")
    assert info.printed.error == {"cifar10": 5.13, "cifar100": 24.65}
    assert info.printed.remark


def test_model_info_of_another_head_and_input():
    small = model_info("sparsenet40_k12")
    large = model_info("sparsenet40_k12", 100, input_shape=(64, 96, 3))
    features = 12 + 12 + 12 + 12
    assert large.num_classes == 100
    assert large.input_shape == (64, 96, 3)
    assert large.params == small.params + 90 * (features + 1)
    assert large.macs - 100 * features == 6 * (small.macs - 10 * features)
    assert large.printed == small.printed


def test_model_info_of_what_no_paper_prints():
    assert model_info("sparsenet22_k4").printed is None
    assert model_info("sparsenet22_k4").table is None
    info = model_info("sparsenet40_k12", topology="dense")
    assert info.printed is None
    assert info.params == model_info("densenet40_k12").params
    assert info.links == 3 * 12 * 13 // 2


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("sparsnet40_k12", "sparsenet40_k12"),
        ("sparsenet_bc100k24", "sparsenet_bc100_k24"),
        ("densenet_bc_190_k40", "densenet_bc190_k40"),
        ("preact_resnet", "preact_resnet"),
        ("preactresnet110", "preact_resnet110"),
        ("DenseNet121", "densenet121"),
    ],
)
def test_unknown_name_lists_the_nearest(name, nearest):
    message = one_line_error(create_model, name)
    if name in list_families():
        assert "depth" in message
    else:
        assert message.startswith(f"unknown model {name!r}; nearest: ")
        assert nearest in message
    assert one_line_error(model_info, name) == message


@pytest.mark.parametrize(
    ("override", "nearest"),
    [("topolgy", "topology"), ("agregation", "aggregation"), ("growthrate", "growth_rate")],
)
def test_unknown_override_lists_the_nearest(override, nearest):
    message = one_line_error(create_model, "sparsenet40_k12", **{override: 1})
    assert repr(override) in message
    assert nearest in message


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("sparsenet42_k12", 43),
        ("sparsenet5_k12", 7),
        ("densenet_bc99_k12", 100),
        ("densenet_bc4_k12", 10),
        ("preact_resnet57", 56),
        ("sparsenet_sum1000", 1001),
        ("sparsenet_sum2", 11),
    ],
)
def test_a_depth_that_fits_no_network_gives_the_nearest(name, nearest):
    assert f"nearest {nearest}" in one_line_error(create_model, name)
    create_model(re.sub(r"\d+", str(nearest), name, count=1))


def test_imagenet_depths_are_listed():
    message = one_line_error(create_model, "densenet_imagenet", depth=122)
    assert all(depth in message for depth in ("121", "169", "201", "264"))


@pytest.mark.parametrize(
    ("name", "overrides", "said"),
    [
        ("densenet40_k12", {"groups": 5}, "growth_rate 12 is not divisible by groups 5"),
        (
            "densenet40_k12",
            {"growth_rate": 0},
            "at least 1, got 0",
        ),
        ("densenet40_k12", {"growth_rate": (12, 24)}, "growth_rate has 2 values for 3 stages"),
        ("densenet40_k12_24", {}, "growth_rate has 2 values for 3 stages"),
        ("sparsenet121_k32_64_128", {}, "growth_rate has 3 values for 4 stages"),
        ("densenet40_k12", {"topology": ("dense", "sparse")}, "topology has 2 values for 3 stages"),
        ("densenet40_k12", {"topology": "sparce"}, "nearest: sparse"),
        ("sparsenet40_k12", {"topology_args": {"bas": 3}}, "nearest: base"),
        ("sparsenet40_k12", {"topology_args": {"depth": 3}}, "'depth'"),
        ("sparsenet40_k12", {"topology_args": {"base": 1}}, "at least 2"),
        ("sparsenet40_k12", {"stage_depths": (1, 0, 1)}, "the depth of a stage must be"),
        (
            "sparsenet40_k12",
            {"num_classes": 0},
            "num_classes must be",
        ),
        (
            "preact_resnet56",
            {"num_classes": -1},
            "num_classes must be",
        ),
        ("sparsenet", {"depth": 40}, "needs the argument 'growth_rate'"),
        ("sparsenet_bc", {"growth_rate": 4}, "needs the argument 'depth'"),
    ],
)
def test_numbers_that_fit_no_network(name, overrides, said):
    assert said in one_line_error(create_model, name, **overrides)


def test_unknown_aggregation_is_told_with_the_nearest():
    assert "nearest: sum" in one_line_error(model_info, "densenet40_k12", aggregation="summ")


@pytest.mark.parametrize(
    "overrides",
    [
        {"pool": "gobal"},
        {"groups": 0},
        {"groups": 5},
        {"dropout": 1.5},
        {"dropout": "much"},
        {"growth_rate": "12"},
        {"growth_rate": 0},
        {"growth_rate": 2.5},
        {"depth": 41},
        {"depth": "deep"},
        {"compression": 0.0},
        {"stem_features": 0},
        {"aggregation": "max"},
        {"num_classes": 2.5},
        {"num_classes": True},
    ],
    ids=str,
)
def test_bad_values_are_told(overrides):
    one_line_error(create_model, "densenet40_k12", **overrides)


@pytest.mark.parametrize(
    ("name", "size"), [("sparsenet22_k4", 2), ("densenet121", 16), ("sparsenet121_k32", 32)]
)
def test_images_too_small_for_the_network_are_told(name, size):
    assert "too small" in one_line_error(model_info, name, input_shape=(size, size, 3))


def test_every_listed_network_is_of_a_family():
    for name in list_models():
        assert registry.find_family(name).name in list_families()


@pytest.mark.parametrize("field", ["topologies", "growth_rates", "execution", "parent", "name"])
def test_fields_that_the_family_computes_are_no_arguments(field):
    assert f"sparsenet40_k12 has no argument '{field}'" in one_line_error(
        create_model, "sparsenet40_k12", **{field: ()}
    )


def test_arguments_go_on_to_the_functions_below():
    dense = create_model("res2net50_26w_4s", topology="dense", shortcut_sources="blocks", width=50)
    assert {topology.name for topology in dense.shortcut_topologies} == {"dense"}
    assert (dense.shortcuts.sources, dense.width) == ("blocks", 32)
    assert "inner_shortcuts" in one_line_error(
        create_model, "res2net50_26w_4s", inner_shortcuts=True
    )
    block = create_model("micro_dense_efficientnet_b0", final_relu=False).replacement
    assert not block.final_relu
