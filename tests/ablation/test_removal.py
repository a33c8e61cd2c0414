"""Networks without links: those that can be built, and compute what the masked ones do."""

import dataclasses

import numpy as np
import pytest

from aggnets_jax import config as config_lib
from aggnets_jax.ablation import removal
from aggnets_jax.ablation.sets import listed_sets
from aggnets_jax.connectivity.links import collection, find_links, masks_without
from aggnets_jax.errors import UserError
from aggnets_jax.models import create_configured_model
from aggnets_jax.training.state import leaves_by_path
from aggnets_jax.workdir.restore import Restored
from tests.connectivity.test_stage import jit
from tests.models.tiny import TINY
from tests.models.variables import random_variables
from tests.runs import DATASET

_CONCAT = {"stage_depths": (3, 2), "growth_rate": 4}
# Links to cut of a network of each kind, and what it is besides its family.
CUTS = {
    "concat": ("densenet_bc", _CONCAT, {}, "stage1:2-0,stage2:2-0,stage2:3-1"),
    "sum": (
        "densenet",
        _CONCAT,
        {"aggregation": "sum"},
        "stage1:3-1,stage2:2-0,stage2:3-0",  # so that nothing reads the projection of stage 2
    ),
    "shortcuts": ("dsnet_cifar", {"stage_depths": (4,), "width": 25}, {}, "stage1:2-0,stage1:3-1"),
    "sparsenet_sum": ("sparsenet_sum", None, {}, "stage1:3-1,stage2:2-1,stage3:2-0"),
    "dsnet": ("dsnet_cifar_bn", None, {}, "stage1:2-0,stage2:3-0,stage2:2-0"),
    "hcgnet": ("hcgnet", None, {}, "stage2:2-1,stage2:3-0,stage2:4-2"),
    "hardnet": ("hardnet", None, {}, "stage1:4-2,stage1:5-1,stage2:4-0"),
}
FAST = ("concat", "sum", "shortcuts")


def restored_network(family, arguments=None, **changes):
    """Return a network with random weights as if restored, its stages, and images."""
    tiny, side = TINY[family]
    fields = {"model": {"name": family, "args": arguments or tiny, **changes}}
    config = config_lib.resolve(fields)
    info = dataclasses.replace(DATASET, image_shape=(side, side, 3), num_classes=3)
    model = create_configured_model(config, 3)
    variables = random_variables(model, side, np.float32)
    images = np.random.default_rng(1).normal(size=(2, side, side, 3)).astype(np.float32)
    restored = Restored(7, config, info, model, variables)
    return restored, find_links(model, info.image_shape), images


def cut_of(text, stages):
    return listed_sets([text], stages)[0].links


@pytest.mark.parametrize(
    "kind", [kind if kind in FAST else pytest.param(kind, marks=pytest.mark.slow) for kind in CUTS]
)
def test_without_its_links_a_network_computes_what_the_masked_one_does(kind):
    family, arguments, changes, links = CUTS[kind]
    restored, stages, images = restored_network(family, arguments, **changes)
    cut = cut_of(links, stages)
    smaller = removal.smaller_network(restored, stages, cut)
    weights = removal.fitting_variables(restored, stages, cut, smaller)
    apply = jit(restored.model.apply)
    masked, plain = (
        apply({**restored.variables, **collection(masks_without(stages, links))}, images)[0]
        for links in (cut, ())
    )
    found, _ = jit(smaller.model.apply)(weights, images)
    np.testing.assert_allclose(found, masked, rtol=1e-5, atol=1e-5)
    assert np.abs(found - plain).max() > 1e-2

    before, after = leaves_by_path(restored.variables), leaves_by_path(weights)
    assert after.keys() <= before.keys()
    assert sum(np.size(x) for x in after.values()) < sum(np.size(x) for x in before.values())
    left = {
        name: set(stage.links)
        for name, stage in find_links(smaller.model, images.shape[1:]).items()
    }
    for name, stage in stages.items():
        assert left[name] == {link for link in stage.links if (name, link) not in cut}


def test_a_map_that_is_flattened_loses_all_values_of_a_channel():
    small = {"stage_depths": (2,), "growth_rate": 4, "pool": "flatten"}
    restored, stages, _ = restored_network("densenet", small)
    cut = cut_of("stage1:3-1", stages)
    smaller = removal.smaller_network(restored, stages, cut)
    weights = removal.fitting_variables(restored, stages, cut, smaller)
    kernel, old = (v["params"]["classifier"]["kernel"] for v in (weights, restored.variables))
    # 8 channels of the input, then 4 of each layer, of 4 x 4 values each.
    assert len(old) == 16 * 16
    np.testing.assert_array_equal(kernel, np.delete(old, slice(8 * 16, 12 * 16), 0))


@pytest.mark.parametrize("family", ["densenet_bc", "densenet"])
def test_what_is_compressed_by_its_width_keeps_its_weights_from_being_cut(family):
    """The transition after a stage would have fewer output channels."""
    restored, stages, _ = restored_network(family, _CONCAT)
    layer = stages["stage1"].topology.depth + 1
    source = min(s for n, s in stages["stage1"].links if n == layer)
    cut = [("stage1", (layer, source))]
    smaller = removal.smaller_network(restored, stages, cut)
    with pytest.raises(UserError, match=r"transition1/.* would have the shape"):
        removal.fitting_variables(restored, stages, cut, smaller)


def test_a_mean_is_of_fewer_and_the_network_another():
    small = {"stage_depths": (2,), "growth_rate": 4}
    restored, stages, images = restored_network("densenet", small, aggregation="mean")
    cut = cut_of("stage1:2-0", stages)
    smaller = removal.smaller_network(restored, stages, cut)
    weights = removal.fitting_variables(restored, stages, cut, smaller)
    with pytest.raises(UserError, match="differs from the one with masked links"):
        removal.check_same_function(restored, stages, cut, smaller, weights, images)


@pytest.mark.parametrize(
    ("family", "cut", "message"),
    [
        ("sparsenet_bc", "stage2:1-0", "layer 1 of stage2 would read nothing"),
        ("sparsenet_bc", "stage1:3-1,stage1:3-2", "the output of stage1 would read nothing"),
        ("sparsenet_bc", "stage1:3-2", "nothing would read layer 2 of stage1"),
        ("dsnet_cifar", "stage2:2-0,stage2:2-1", "layer 2 of stage2 would read nothing"),
        ("mdnet", "stage1/layer1/layers:2-0", "stages are within blocks"),
    ],
)
def test_networks_that_there_are_none_of(family, cut, message):
    restored, stages, _ = restored_network(family)
    with pytest.raises(UserError, match=message):
        removal.smaller_network(restored, stages, cut_of(cut, stages))


def test_of_an_order_the_first_links_go_without_which_there_is_a_network():
    _, stages, _ = restored_network("dsnet_cifar")
    (first, second), (a, b, c) = (
        [("stage1", (2, s)) for s in (0, 1)],
        [("stage2", (3, s)) for s in (0, 1, 2)],
    )
    assert removal.least_harmful(stages, [first, second, a, b, c], 2) == ([first, a], [second])
    cut, kept = removal.least_harmful(stages, [a, b, c, first, second], 3)
    assert (cut, kept) == ([a, b, first], [c])
    assert removal.least_harmful(stages, [a, b], 1, lambda link: link != a) == ([b], [a])
    with pytest.raises(UserError, match="3 links can't be cut out of this network; at most 2 can"):
        removal.least_harmful(stages, [a, b, c], 3)


def test_the_last_link_out_of_a_layer_stays():
    _, stages, _ = restored_network("sparsenet_bc")
    out_of_layer_1 = [("stage1", (2, 1)), ("stage1", (3, 1))]
    others = [("stage1", (2, 0))]
    assert removal.least_harmful(stages, [*out_of_layer_1, *others], 1) == ([out_of_layer_1[0]], [])
    with pytest.raises(UserError, match="at most 1 can"):
        removal.least_harmful(stages, [*out_of_layer_1, *others], 2)


def test_the_config_is_that_of_the_run_with_what_is_left():
    restored, stages, _ = restored_network("sparsenet_bc")
    restored.config.update(num_seeds=3, seed=5, lr=0.3, init_from="elsewhere")
    restored.config.paper.source = "Table 1"
    cut = cut_of("stage1:2-0", stages)
    config, _ = removal.smaller_network(restored, stages, cut, seed=6)
    before, after = (config_lib.to_json(c) for c in (restored.config, config))
    assert config_lib.changes(before, after).keys() == {
        "model.topology",
        "model.topology_args",
        "num_seeds",
        "seed",
        "init_from",
    }
    assert (config.seed, config.num_seeds, config.init_from, config.lr) == (6, 1, None, 0.3)
    assert config.paper.source == ""
    assert after["model"]["topology_args"][0] == {"edges": [[1, 0], [2, 1], [3, 2], [3, 1]]}
