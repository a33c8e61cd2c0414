"""Ways of computing a network: all of them compute the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax import create_model
from aggnets_jax.connectivity import features
from aggnets_jax.connectivity.links import collection, find_links, masks_without
from aggnets_jax.connectivity.scan_variables import match_layout
from aggnets_jax.errors import UserError
from aggnets_jax.layers import batch_norm
from aggnets_jax.models import count
from aggnets_jax.models.flops import Count
from aggnets_jax.runtime.compilation import compiler_options
from aggnets_jax.train import train_and_evaluate
from aggnets_jax.training.losses import cross_entropy
from tests import runs
from tests.marks import mostly_slow
from tests.models.execution import train_pass
from tests.models.tiny import TINY
from tests.models.variables import random_variables


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def tiny(family, **overrides):
    """Make the tiny network of a family in float64; return it with the size of its images."""
    arguments, size = TINY[family]
    return create_model(family, 5, **{**arguments, "dtype": jnp.float64, **overrides}), size


def largest_difference(one, other):
    gaps = jax.tree.map(lambda x, y: np.max(np.abs(x - y)), one, other)
    return max(jax.tree.leaves(gaps))


def shapes_of(model, size):
    images = jnp.zeros((1, size, size, 3))
    return jax.eval_shape(lambda: model.init(jax.random.key(0), images))


# ---- Statistics of a feature, computed once for all layers that normalise it.


@pytest.mark.parametrize(
    "family",
    ["sparsenet_bc", *(pytest.param(f, marks=pytest.mark.slow) for f in ("densenet", "hcgnet"))],
)
def test_shared_statistics_change_nothing(family):
    few = {} if family == "hcgnet" else {"stage_depths": (2, 1)}
    apart, size = tiny(family, shared_statistics=False, **few)
    shared, _ = tiny(family, **few)
    variables = random_variables(apart, size)
    one, other = (train_pass(model, variables, size) for model in (apart, shared))
    assert largest_difference(one, other) < 1e-10
    assert max(np.max(np.abs(g)) for g in jax.tree.leaves(one["gradients"])) > 1e-3


def test_statistics_of_a_feature_are_computed_once(monkeypatch):
    model, size = tiny("densenet")
    variables = random_variables(model, size)
    measured, real = [], features.batch_statistics

    def record(x, *arguments):
        measured.append(x.shape[-1])
        return real(x, *arguments)

    monkeypatch.setattr(features, "batch_statistics", record)
    monkeypatch.setattr(batch_norm, "batch_statistics", record)
    images = jnp.zeros((2, size, size, 3))
    jax.eval_shape(lambda: model.apply(variables, images, train=True, mutable=["batch_stats"]))
    # Two layers in each of three stages; all norms read what a stage has concatenated.
    assert measured == [8, 4, 4, 16, 4, 4, 24, 4, 4]


# ---- Recomputation for the gradient.


REMATERIALISED = [
    ("densenet_bc", {"stage_depths": (2, 1), "dropout": 0.3}),
    ("preact_resnet", {"depth": 11, "stochastic_depth": 0.5}),
    ("dsnet_cifar", {}),
]


@pytest.mark.parametrize(
    ("family", "overrides", "remat"),
    [
        (*REMATERIALISED[0], "norm"),
        pytest.param(*REMATERIALISED[1], "layer", marks=pytest.mark.slow),
        pytest.param(*REMATERIALISED[0], "layer", marks=pytest.mark.slow),
        pytest.param(*REMATERIALISED[1], "norm", marks=pytest.mark.slow),
        pytest.param(*REMATERIALISED[2], "layer", marks=pytest.mark.slow),
        pytest.param(*REMATERIALISED[2], "norm", marks=pytest.mark.slow),
    ],
)
def test_rematerialisation_changes_nothing(family, overrides, remat):
    """Dropout draws the same numbers, too."""
    kept, size = tiny(family, remat="none", **overrides)
    again, _ = tiny(family, remat=remat, **overrides)
    variables = random_variables(kept, size)
    one, other = (train_pass(model, variables, size) for model in (kept, again))
    assert largest_difference(one, other) < 1e-12


@mostly_slow(
    ("backend", "family", "overrides", "remat"),
    [
        ("cpu", "densenet_bc", {"stage_depths": (2, 1)}, "norm"),
        ("cpu", "densenet_bc", {"stage_depths": (2, 1), "aggregation": "sum"}, "none"),
        ("cpu", "resnet_cifar", {}, "none"),
        ("tpu", "densenet_bc", {"stage_depths": (2, 1)}, "none"),
    ],
    quick=(0, 1, 3),
)
def test_by_default_cpus_recompute_the_normalised_concatenation(
    monkeypatch, backend, family, overrides, remat
):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    by_default, size = tiny(family, **overrides)
    explicit, _ = tiny(family, remat=remat, **overrides)

    def gradient(model):
        images = jnp.zeros((2, size, size, 3))
        variables = jax.eval_shape(model.init, jax.random.key(0), images)

        def loss(variables):
            (logits, _), _ = model.apply(variables, images, train=True, mutable=["batch_stats"])
            return logits.sum()

        return str(jax.make_jaxpr(jax.grad(loss))(variables))

    assert gradient(by_default) == gradient(explicit)
    assert ("remat" in gradient(by_default)) == (remat == "norm")


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(TINY))
def test_all_families_can_be_rematerialised(family):
    kept, size = tiny(family, remat="none")
    again, _ = tiny(family, remat="layer")
    variables = random_variables(kept, size)
    one, other = (train_pass(model, variables, size) for model in (kept, again))
    assert largest_difference(one, other) < 1e-10


def temporary_bytes(model, size, batch=16):
    """Return the bytes that XLA needs for a gradient beside its arguments and results."""
    images, labels = jnp.zeros((batch, size, size, 3), jnp.float32), jnp.zeros(batch, jnp.int32)
    variables = random_variables(model, size, np.float32)

    def loss(params):
        rest = {"params": params, "batch_stats": variables["batch_stats"]}
        (logits, _), _ = model.apply(rest, images, train=True, mutable=["batch_stats"])
        return cross_entropy(logits, labels).mean()

    gradient = jax.jit(jax.grad(loss), compiler_options=compiler_options())
    return gradient.lower(variables["params"]).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_rematerialisation_saves_memory():
    def taken(remat):
        model = create_model("densenet_bc", 5, stage_depths=(8,), growth_rate=12, remat=remat)
        return temporary_bytes(model, 16)

    plain = taken("none")
    assert taken("norm") < 0.6 * plain
    assert taken("layer") < 0.4 * plain


# ---- Loops over layers.

SCANNED = [
    ("sparsenet", {"stage_depths": (7, 1)}),
    ("sparsenet_bc", {"depth": 52}),
    ("sparsenet", {"depth": 28, "topology": "log_dense"}),
    ("sparsenet", {"depth": 22, "topology": "windowed", "topology_args": {"window": 3}}),
    ("sparsenet", {"depth": 16, "aggregation": "sum"}),
    ("densenet", {"stage_depths": (6, 1)}),
    ("densenet_bc", {"depth": 40}),
    ("hcgnet", {"modules": (2, 6)}),
    ("sparsenet_sum", {"depth": 38}),
    ("preact_resnet", {"depth": 38}),
    ("resnet_cifar", {"stage_depths": (4, 5)}),
    ("resnet_dense_cifar", {"stage_depths": (4, 5)}),
    ("wrn", {"depth": 28}),
    ("seqresnet", {"blocks": 3}),
    ("highway", {}),
]
QUICK = {0}


@pytest.mark.parametrize(
    ("family", "overrides"),
    [p if i in QUICK else pytest.param(*p, marks=pytest.mark.slow) for i, p in enumerate(SCANNED)],
)
def test_loops_compute_the_same(family, overrides):
    apart, size = tiny(family, **overrides)
    scanned, _ = tiny(family, scan=True, **overrides)
    variables, like = random_variables(apart, size), shapes_of(scanned, size)
    one = train_pass(apart, variables, size)
    other = train_pass(scanned, match_layout(variables, like), size)
    assert any("layers" in str(path) for path, _ in jax.tree_util.tree_leaves_with_path(like))
    other |= {name: match_layout(other[name], one[name]) for name in ("gradients", "batch_stats")}
    assert largest_difference(one, other) < 1e-10


def test_layers_of_different_widths_are_not_looped():
    scanned, size = tiny("hardnet", scan=True)
    apart, _ = tiny("hardnet")
    assert shapes_of(scanned, size) == shapes_of(apart, size)


def test_variables_move_there_and_back():
    apart, size = tiny("densenet_bc", stage_depths=(6, 2))
    scanned, _ = tiny("densenet_bc", stage_depths=(6, 2), scan=True)
    variables = random_variables(apart, size)
    moved = match_layout(variables, shapes_of(scanned, size))
    back = match_layout(moved, variables)
    assert jax.tree.structure(back) == jax.tree.structure(variables)
    assert largest_difference(variables, back) == 0
    assert jax.tree.map(jnp.shape, moved) == jax.tree.map(jnp.shape, shapes_of(scanned, size))


@pytest.mark.slow
def test_weights_of_what_a_layer_does_not_read_start_and_stay_zero():
    """Otherwise the layers of a dense stage would be wider than they are."""
    apart, size = tiny("densenet", depth=22)
    scanned, _ = tiny("densenet", depth=22, scan=True)
    images = jnp.zeros((1, size, size, 3))
    variables = jax.jit(lambda: scanned.init(jax.random.key(0), images))()
    ones = jax.tree.map(jnp.ones_like, random_variables(apart, size))
    read = match_layout(ones, variables)
    padded = jax.tree.map(lambda r: r == 0, read)
    assert sum(jnp.sum(p) for p in jax.tree.leaves(padded)) > 100
    gradients = train_pass(scanned, variables, size)["gradients"]
    for values in (variables["params"], gradients):
        outside = jax.tree.map(lambda x, p: jnp.where(p, x, 0), values, padded["params"])
        assert largest_difference(outside, jax.tree.map(jnp.zeros_like, outside)) == 0
    inside = jax.tree.map(lambda x, r: jnp.sum((x != 0) & (r != 0)), variables, read)
    kernels = jax.tree_util.tree_leaves_with_path(inside["params"])
    assert all(n > 0 for path, n in kernels if path[-1].key == "kernel")


def test_loops_count_as_the_network_they_are():
    apart, size = tiny("densenet_bc", stage_depths=(6, 2))
    scanned, _ = tiny("densenet_bc", stage_depths=(6, 2), scan=True)
    counted = count(scanned, (size, size, 3))
    assert counted == count(apart, (size, size, 3))
    assert all(isinstance(part, Count) for part in counted.values())


def test_links_of_loops_are_not_masked():
    scanned, size = tiny("sparsenet", scan=True)
    variables = random_variables(scanned, size)
    apart, _ = tiny("sparsenet")
    masks = collection(masks_without(find_links(apart, (size, size, 3)), []))
    with pytest.raises(UserError, match="scan=False"):
        scanned.apply({**variables, **masks}, jnp.zeros((1, size, size, 3)))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"remat": "layers"}, "layer"),
        ({"scan": 1}, "True or False"),
        ({"shared_statistics": "yes"}, "True or False"),
    ],
)
def test_unknown_ways_of_computing_are_refused(wrong, said):
    with pytest.raises(UserError, match=said):
        tiny("sparsenet", **wrong)


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_loops_over_small_maps_compile(data_dir, tmp_path):
    """XLA:CPU makes one operation of a loop over few values, in which it knows no barriers."""
    network = {"name": "resnet20_cifar", "scan": True}
    config = runs.tiny_config(data_dir, total_steps=1, batch_size=8, model=network)
    assert train_and_evaluate(config, tmp_path)["steps"] == 1
