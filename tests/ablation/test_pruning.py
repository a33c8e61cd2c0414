"""Weights of links: the proximal step, what a penalty leaves, and what is cut."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aggnets_jax import config as config_lib
from aggnets_jax import create_model
from aggnets_jax.ablation.pruning import (
    LINKS,
    NETWORK,
    Penalty,
    WeighedLinks,
    WeighedNetwork,
    with_links,
)
from aggnets_jax.connectivity.links import StageLinks, find_links
from aggnets_jax.connectivity.topology import make_topology
from aggnets_jax.errors import UserError
from aggnets_jax.training.losses import make_loss
from tests.connectivity.test_stage import jit


def dense(*depths):
    """Return the links of dense stages."""
    topologies = [make_topology("dense", depth) for depth in depths]
    stages = {f"stage{i}": StageLinks(t, t.links) for i, t in enumerate(topologies, start=1)}
    return WeighedLinks.of(stages)


def test_a_stage_may_have_no_links():
    some, none = make_topology("dense", 2), make_topology("plain", 1)
    stages = {"stage1": StageLinks(some, some.links), "stage2": StageLinks(none, ())}
    masks = WeighedLinks.of(stages).masks(jnp.full(len(some.links), 0.5))
    assert {*np.unique(masks["stage1"])} <= {0.5, 1.0} and 0.5 in np.ravel(masks["stage1"])
    np.testing.assert_array_equal(masks["stage2"], stages["stage2"].ones())


def step_by_loops(links, weights, gradients, rate, strength, spared):
    """Compute `WeighedLinks.step` link by link, as its docstring defines it."""
    moved = {link: weights[i] - rate * gradients[i] for i, link in enumerate(links.links)}
    stages = [set(links.stages)] if len(spared) == 1 else [{name} for name in links.stages]
    for names, keep in zip(stages, spared, strict=True):
        mine = sorted((link for link in moved if link[0] in names), key=lambda link: -moved[link])
        for link in mine[keep:]:
            moved[link] = max(moved[link] - rate * strength, 0)
    strongest = {}
    for (stage, (layer, _)), weight in moved.items():
        strongest[stage, layer] = max(weight, strongest.get((stage, layer), 0))
    return [weight / strongest[stage, layer] for (stage, (layer, _)), weight in moved.items()]


@pytest.mark.parametrize("spared", [(0,), (9,), (2, 6), (30, 30)])
def test_a_step_is_what_it_says(spared):
    links = dense(3, 4)
    random = np.random.default_rng(0)
    for _ in range(5):
        weights = random.uniform(0.2, 1, len(links.links)).astype(np.float32)
        gradients = random.normal(0, 0.3, len(weights)).astype(np.float32)
        found = links.step(weights, gradients, rate=0.5, strength=0.4, spared=np.array(spared))
        expected = step_by_loops(links, weights, gradients, 0.5, 0.4, spared)
        np.testing.assert_allclose(found, np.maximum(expected, 0), rtol=1e-5, atol=1e-6)
        assert found.min() >= 0
        for reader in range(links.readers.max() + 1):
            assert found[links.readers == reader].max() == 1


def test_a_step_minimises_the_penalty_near_where_the_gradient_leads():
    """The proximal operator is compared with random points and points near it."""
    links, rate, strength, keep = dense(2), 0.5, 0.6, 4
    random = np.random.default_rng(0)
    weights = np.array([1, 0.9, 1, 0.5, 0.2, 1], np.float32)
    # The strongest of each layer stays where it is, so that nothing is divided.
    gradients = np.array([0, 0.3, 0, -0.5, 0.1, 0], np.float32)
    found = np.asarray(
        links.step(weights, gradients, rate=rate, strength=strength, spared=np.array([keep]))
    )
    moved = weights - rate * gradients

    def objective(points):
        penalty = np.sort(points, axis=-1)[..., : len(weights) - keep].sum(axis=-1)
        return 0.5 * ((points - moved) ** 2).sum(axis=-1) + rate * strength * penalty

    near = np.clip(found + random.normal(0, 0.1, (20_000, 6)), 0, 1)
    points = np.concatenate([random.uniform(size=(20_000, 6)), near])
    assert objective(found) <= objective(points).min()
    assert np.count_nonzero(found) == 5  # a weight of 0.15 ends at 0, one of 0.75 does not


def test_a_penalty_takes_nothing_from_equals_and_all_from_no_weight():
    links = dense(2)
    weights = jnp.array([1, 1, 1, 1, 0.1, 1.0])
    zeros = jnp.zeros(6)
    found = links.step(weights, zeros, rate=0.5, strength=0.5, spared=np.array([0]))
    np.testing.assert_array_equal(found, [1, 1, 1, 1, 0, 1])
    # However long the step, a layer reads something.
    found = links.step(weights, zeros + 9, rate=0.5, strength=9.0, spared=np.array([0]))
    np.testing.assert_array_equal(found, [1, 1, 1, 1, 0, 1])


@pytest.mark.parametrize("keep", [None, (9,)])
def test_what_is_worth_its_weight_stays(keep):
    """The loss is -sum of worth * weight; its best weights follow from the bounds.

    Of the links into a layer the strongest is c and has weight 1. One that is spared moves by
    rate * worth while c moves by rate * c; divided by what c has become it rests at worth / c, one
    that is penalised at (worth - strength) / c, and with both penalised at (worth - strength) /
    (c - strength), but not below 0.
    """
    links, total_steps, strength = dense(3, 3), 300, 0.4
    random = np.random.default_rng(3)
    worth = random.permutation(np.linspace(0.1, 1.5, len(links.links))).astype(np.float32)
    worth[[0, 10]] = 1  # the only links of their layers; now each has one that is worth its weight
    penalty = Penalty("topk" if keep else "l1", strength, keep)
    optimizer = with_links(optax.sgd(0.1), links, penalty, total_steps)
    params = {NETWORK: jnp.zeros(2), LINKS: jnp.ones(len(worth))}

    def loss(params):
        return -(worth * params[LINKS]).sum() + ((params[NETWORK] - 3) ** 2).sum()

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for number in range(total_steps):
        params, state = step(params, state)
        if 3 * (number + 1) <= total_steps:
            np.testing.assert_array_equal(params[LINKS], 1)
    np.testing.assert_allclose(params[NETWORK], 3, rtol=1e-4)  # by an optimiser of its own

    weights = np.asarray(params[LINKS])
    penalised = np.ones(len(worth), bool)
    if keep:
        penalised[np.argsort(-weights)[: keep[0]]] = False
    left = worth - strength * penalised
    strongest = np.array([left[links.readers == reader].max() for reader in links.readers])
    assert strongest.min() > 0
    np.testing.assert_allclose(weights, np.maximum(left / strongest, 0), atol=1e-3)
    cut, needed = links.cut(weights, keep)
    if keep:
        assert len(links.links) - len(cut) == keep[0]
    else:
        assert {*cut, *needed} == {links.links[i] for i in np.flatnonzero(weights == 0)}
        assert cut


def test_the_strongest_are_spared_in_the_last_third():
    both = Penalty("topk", 0.1, (4, 7))
    spared = [both.spared(step, 90).tolist() for step in (30, 59, 60, 89)]
    assert spared == [[0, 0], [0, 0], [4, 7], [4, 7]]
    assert Penalty("l1", 0.1, (4,)).spared(60, 90).tolist() == [0]
    # The penalty alone takes a weight in a ninth of the steps.
    assert both.rate(90) * both.strength == pytest.approx(1 / 10)


def makes_network(depth, edges):
    try:
        return not make_topology("custom", depth, edges=edges).unread
    except UserError:
        return False


def test_the_strongest_links_are_left_that_make_a_network():
    links = dense(3)
    everything = [link for _, link in links.links]
    random = np.random.default_rng(0)
    repaired = 0
    for _ in range(100):
        weights = random.permutation(len(everything)) / len(everything)
        for keep in (6, 7, 8, 10):
            cut, needed = links.cut(weights, (keep,))
            left = [link for link in everything if ("stage1", link) not in cut]
            assert makes_network(3, left)
            assert len(left) == keep
            strongest = [everything[i] for i in sorted(np.argsort(-weights)[:keep])]
            assert (left == strongest) == makes_network(3, strongest)
            by_link = dict(zip(everything, weights, strict=True))
            cut_too = max((by_link[link] for _, link in cut), default=0)
            assert {link for _, link in needed} == {n for n in left if by_link[n] < cut_too}
            repaired += left != strongest
    assert repaired


def test_each_stage_keeps_its_own_number():
    links = dense(2, 2)
    weights = np.linspace(0.1, 1, 12)  # those of the second stage are the strongest
    cut, _ = links.cut(weights, (4, 4))
    assert [name for name, _ in cut].count("stage1") == 2
    assert len(cut) == 4
    cut, _ = links.cut(weights, (8,))
    assert [name for name, _ in cut].count("stage1") == 3  # whose others are needed
    assert len(cut) == 4


def test_links_without_weight_go_but_for_those_that_are_needed():
    links = dense(2)
    weights = {(1, 0): 1, (2, 0): 1, (2, 1): 0, (3, 0): 1, (3, 1): 0, (3, 2): 0}
    cut, needed = links.cut(np.array([weights[link] for _, link in links.links]), None)
    # Layer 1 must be read, and layer 2; of links that weigh the same the longest goes.
    assert cut == [("stage1", (3, 1))]
    assert needed == [("stage1", (2, 1)), ("stage1", (3, 2))]


def test_of_equal_weights_the_longest_go():
    links = dense(3)
    cut, _ = links.cut(np.ones(10), (7,))
    assert sorted(source - layer for _, (layer, source) in cut) == [-4, -3, -3]


def test_if_so_few_make_no_network_more_are_kept():
    # Weak are those that would make a chain; so layer 3 is the only reader of two layers.
    links = dense(2)
    weights = {(1, 0): 1, (2, 0): 1, (2, 1): 0, (3, 0): 0, (3, 1): 1, (3, 2): 1}
    cut, needed = links.cut(np.array([weights[link] for _, link in links.links]), (3,))
    assert len(links.links) - len(cut) == 4
    assert needed


def test_weights_of_one_change_nothing_and_gradients_reach_them():
    model = create_model("densenet", 3, growth_rate=4, stage_depths=(2,))
    images = np.random.default_rng(1).normal(size=(2, 8, 8, 1)).astype(np.float32)
    network = WeighedNetwork(model, WeighedLinks.of(find_links(model, images.shape[1:])))
    variables = jit(network.init)(jax.random.key(0), images)
    assert [name for name, _ in network.links.links] == ["stage1"] * 6
    own = {**variables, "params": variables["params"][NETWORK]}
    np.testing.assert_array_equal(
        jit(network.apply)(variables, images)[0], jit(model.apply)(own, images)[0]
    )

    def loss(weights):
        params = {**variables["params"], LINKS: weights}
        return (network.apply({**variables, "params": params}, images)[0] ** 2).sum()

    value_and_gradients = jit(jax.value_and_grad(loss))
    weights = np.random.default_rng(2).uniform(0.5, 1, 6).astype(np.float32)
    value, gradients = value_and_gradients(weights)
    assert np.all(gradients != 0)
    shifted = weights + 1e-2 * np.eye(6, dtype=np.float32)[4]
    change = (value_and_gradients(shifted)[0] - value) / 1e-2
    np.testing.assert_allclose(change, gradients[4], rtol=0.1)


def test_the_loss_is_the_network_s_own():
    config = config_lib.resolve({})
    for name in ("dsn_cifar", "resnet20_cifar"):
        model = create_model(name, 10)
        found, own = (
            make_loss(config, each, "cross_entropy")
            for each in (WeighedNetwork(model, dense(3)), model)
        )
        logits, labels = jnp.array([[2.0, -1.0, 0.5]]), jnp.array([1])
        np.testing.assert_array_equal(found(logits, labels), own(logits, labels))
