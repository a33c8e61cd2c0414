"""Sweeps over cut links: what one program finds is what the network computes, mask by mask."""

import itertools
from unittest.mock import Mock

import jax
import numpy as np
import pytest
from flax import traverse_util
from scipy import stats

from aggnets_jax import config as config_lib
from aggnets_jax import data
from aggnets_jax.ablation import sets, sweep
from aggnets_jax.ablation.batch_statistics import of_batch
from aggnets_jax.connectivity.links import collection, find_links, masks_without
from aggnets_jax.errors import Diverged, UserError
from aggnets_jax.evaluate import evaluate, evaluation_batches, make_eval_step
from aggnets_jax.models import create_configured_model
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.tasks.classification import Classification, score
from aggnets_jax.workdir.restore import Restored
from tests import runs
from tests.connectivity.test_stage import jit
from tests.models.variables import random_variables

NETWORK = {"name": "densenet", "args": {"stage_depths": (2, 2), "growth_rate": 4, "dropout": 0.1}}


def restored_network(data_dir, model):
    config = config_lib.resolve(runs.tiny_config(data_dir, model=model))
    info = data.describe(config.data)
    model = create_configured_model(config, info.num_classes)
    return Restored(3, config, info, model, random_variables(model, 8, np.float32, channels=1))


@pytest.fixture(scope="module")
def untrained(data_dir):
    return restored_network(data_dir, NETWORK)


@pytest.fixture(scope="module")
def images(untrained):
    """Return the whole test split: normalised images, and the batch with their labels."""
    config, info = untrained.config.data, untrained.info
    devices = mesh_lib.batch_sharding(mesh_lib.make_mesh())
    (batch,) = data.eval_batches(config, batch_size=360, sharding=devices)
    return data.make_preprocess(config, info)(batch, train=False), batch


@pytest.fixture(scope="module")
def apply(untrained):
    """Return the compiled function from variables and images to logits and endpoints."""
    return jit(untrained.model.apply)


@pytest.fixture(scope="module")
def masks_of(untrained):
    stages = find_links(untrained.model, untrained.info.image_shape)
    return lambda links: collection(masks_without(stages, links))


@pytest.fixture(scope="module")
def restored(untrained, images, apply, masks_of):
    """Return the network with the best linear classifier of its random features."""
    variables = untrained.variables
    _, endpoints = apply({**variables, **masks_of(())}, images[0])
    features = np.c_[endpoints["pre_logits"], np.ones(360)]
    targets = 5 * np.eye(10)[images[1]["label"]]
    weights = np.linalg.lstsq(features, targets)[0].astype(np.float32)
    variables["params"]["classifier"] = {"kernel": weights[:-1], "bias": weights[-1]}
    return untrained


@pytest.fixture(scope="module")
def ablation(restored):
    return sweep.Ablation(restored, mesh_lib.make_mesh(), at_once=5)


@pytest.fixture(scope="module")
def one_by_one(restored, images, apply, masks_of):
    """Return a function from links to the scores of all examples, by the network alone."""

    def scores(links):
        logits, _ = apply({**restored.variables, **masks_of(links)}, images[0])
        return {name: np.asarray(x) for name, x in score(logits, images[1]).items()}

    return scores


def test_each_link_does_what_it_does_alone(ablation, one_by_one):
    cuts = sets.single_links(ablation.stages)
    baseline, measured, examples = ablation.measure(cuts)
    assert (examples, len(measured)) == (360, len(cuts))
    before = one_by_one(())
    assert baseline.accuracy == before["correct"].mean()
    assert (baseline.delta, baseline.loss_delta) == (0, 0)
    for cut, m in zip(cuts, measured, strict=True):
        after = one_by_one(cut.links)
        pair = (before["correct"], after["correct"])
        lost, gained = (np.sum(a & ~b) for a, b in itertools.permutations(pair))
        assert (m.lost, m.gained) == (lost, gained)
        assert m.accuracy == after["correct"].mean()
        assert m.delta == pytest.approx(after["correct"].mean() - before["correct"].mean())
        assert m.loss == pytest.approx(after["loss"].mean(), rel=1e-5)
        differences = after["loss"].astype(float) - before["loss"]
        interval = stats.ttest_1samp(differences, 0).confidence_interval()
        expected = (differences.mean(), interval.low, interval.high)
        found = (m.loss_delta, m.loss_ci_low, m.loss_ci_high)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    assert len({m.accuracy for m in measured}) > 3


def test_all_sweeps_are_one_program_whose_last_call_is_filled_up(ablation, one_by_one):
    kinds = (
        sets.single_links(ablation.stages),
        sets.by_source(ablation.stages),
        sets.by_layer(ablation.stages),
        sets.by_distance(ablation.stages),
        sets.random_sets(ablation.stages, draws=2),
        sets.listed_sets(["stage1:1-0,stage2:3-1"], ablation.stages),
    )
    assert {(1 + len(cuts)) % ablation.at_once for cuts in kinds} > {0}
    for cuts in kinds:
        last = ablation.measure(cuts).sets[-1]
        expected = one_by_one(cuts[-1].links)
        assert last.accuracy == expected["correct"].mean()
        assert last.loss == pytest.approx(expected["loss"].mean(), rel=1e-5)
    assert ablation.scores._cache_size() == 1


def test_the_network_as_it_is_has_the_accuracy_of_the_evaluation(restored, ablation):
    mesh = mesh_lib.make_mesh()
    preprocess = data.make_preprocess(restored.config.data, restored.info)
    metrics = evaluate(
        Classification(),
        make_eval_step(Classification(), restored.model, preprocess),
        restored.variables,
        evaluation_batches(restored, mesh),
    )
    baseline = ablation.measure([]).baseline
    assert baseline.accuracy == metrics["accuracy"]
    assert baseline.loss == pytest.approx(metrics["loss"], rel=1e-6)
    # In as many batches, of equal sizes.
    assert (restored.config.eval_batch_size, ablation.batches.batch_size) == (64, 60)


def test_a_call_takes_what_leaves_the_last_one_nearly_full(restored):
    mesh = mesh_lib.make_mesh()
    wide = sweep.Ablation(restored, mesh, at_once=20)
    chunks = list(wide._chunks([()] * 3))
    assert [part for part, _ in chunks] == [slice(0, 3)]
    assert jax.tree.leaves(chunks[0][1])[0].shape[0] == 20
    assert sweep._equal_parts(52, 20) == 18 and sweep._equal_parts(52, 60) == 52
    assert sweep.default_at_once(restored, 60) > sweep.default_at_once(restored, 6000) == 1


@pytest.fixture(scope="module")
def training_batches(restored):
    batches = data.train_batches(
        restored.config.data,
        batch_size=restored.config.batch_size,
        seed=0,
        sharding=mesh_lib.batch_sharding(mesh_lib.make_mesh()),
    )
    preprocess = data.make_preprocess(restored.config.data, restored.info)
    return [preprocess(batch, train=False) for batch in itertools.islice(batches, 2)]


def without_dropout(restored):
    model = restored.config.model
    args = {**NETWORK["args"], "dropout": 0.0}
    config = config_lib.resolve({"model": {"name": model.name, "args": args}})
    return create_configured_model(config, restored.info.num_classes)


def test_statistics_are_those_that_training_would_average(restored, training_batches):
    """Running averages are 0.9 times the old one plus 0.1 times the new one."""
    variables, batch = restored.variables, training_batches[0]
    found = jit(lambda v, x: of_batch(restored.model, v, x))(variables, batch)
    model = without_dropout(restored)
    train = jit(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]))
    _, updated = train(variables, batch)
    for ours, new, old in zip(
        *map(jax.tree.leaves, (found, updated["batch_stats"], variables["batch_stats"])),
        strict=True,
    ):
        np.testing.assert_allclose(ours, (new - 0.9 * old) / 0.1, rtol=1e-3, atol=1e-5)
    # The first normalisation reads what the first convolution makes of the images.
    kernel = variables["params"]["stem_conv"]["kernel"]
    padded = np.pad(batch, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    stem = np.einsum("bhwcij,ijco->bhwo", windows, kernel)
    norm = found["stage1"]["layer1"]["norm1"]
    np.testing.assert_allclose(norm["mean"], stem.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norm["var"], stem.var((0, 1, 2)), rtol=1e-4)


def of_all(each):
    """The statistics of the values of all batches, of one size, from those of each."""
    each = [traverse_util.flatten_dict(statistics) for statistics in each]
    mean = {path: np.mean([one[path] for one in each], 0) for path in each[0]}
    squares = {
        path: np.mean([one[path] + one[*path[:-1], "mean"] ** 2.0 for one in each], 0)
        for path in mean
        if path[-1] == "var"
    }
    var = {path: square - mean[*path[:-1], "mean"] ** 2 for path, square in squares.items()}
    return traverse_util.unflatten_dict(mean | var)


def test_re_estimated_statistics_are_of_all_batches(
    restored, training_batches, images, apply, masks_of, monkeypatch
):
    """Each set of links has its own, and the accuracies are those of networks with them."""
    traced = Mock(side_effect=of_batch)
    monkeypatch.setattr("aggnets_jax.ablation.batch_statistics.of_batch", traced)
    again = sweep.Ablation(restored, mesh_lib.make_mesh(), at_once=2, reestimated=2)
    cuts = sets.listed_sets(["stage1:2-0,stage2:1-0", "stage2:3-1"], again.stages)
    baseline, measured, _ = again.measure(cuts)
    statistics = jit(lambda v, x: of_batch(restored.model, v, x))
    for links, m in [((), baseline), *((c.links, m) for c, m in zip(cuts, measured, strict=True))]:
        masked = {**restored.variables, **masks_of(links)}
        each = [statistics(masked, x) for x in training_batches]
        together = of_all(each)
        logits, _ = apply({**masked, "batch_stats": together}, images[0])
        expected = {name: np.asarray(x) for name, x in score(logits, images[1]).items()}
        assert m.accuracy == pytest.approx(expected["correct"].mean(), abs=1.5 / 360)
        assert m.loss == pytest.approx(expected["loss"].mean(), rel=1e-4)
        ours = again.variables_without(links)
        assert ours["params"] is restored.variables["params"]
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
            ours["batch_stats"],
            together,
        )
    assert again.scores._cache_size() == 1
    assert traced.call_count == 1


def test_a_loss_that_is_not_finite_is_told(restored, ablation):
    variables = jax.tree.map(np.copy, restored.variables)
    variables["params"]["classifier"]["bias"][0] = np.inf
    cuts = sets.single_links(ablation.stages)[: ablation.at_once - 1]
    broken = sweep.Ablation(
        restored._replace(variables=variables), mesh_lib.make_mesh(), at_once=ablation.at_once
    )
    broken.scores = ablation.scores  # which is compiled
    with pytest.raises(Diverged, match="not finite at step 3"):
        broken.measure(cuts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"at_once": 0}, "at_once must be at least 1, not 0"),
        ({"seed": 7}, "unknown seed '7'; allowed: 0"),
        ({"reestimated": -1}, "must be at least 1, not -1"),
    ],
)
def test_what_is_refused(restored, arguments, message):
    with pytest.raises(UserError, match=message):
        sweep.Ablation(restored, mesh_lib.make_mesh(), **arguments)


def test_networks_that_have_nothing_to_ablate(data_dir):
    plain = restored_network(
        data_dir, {"name": "resnet_cifar", "args": {"stage_depths": (1,), "width": 25}}
    )
    with pytest.raises(UserError, match="'resnet_cifar' has no links that could be cut"):
        sweep.linked_stages(plain)
