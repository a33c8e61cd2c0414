"""Runs that start from the weights of another, or of a file."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax import config as config_lib
from aggnets_jax import create_model, data
from aggnets_jax.convert import from_torch, to_torch, weight_shapes, write_state_dict
from aggnets_jax.convert.initialize import initial_variables
from aggnets_jax.models import create_configured_model
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.tasks import get_task
from aggnets_jax.train import train_and_evaluate
from aggnets_jax.training.setup import set_up
from aggnets_jax.workdir.restore import restore_network
from tests import runs
from tests.data.official_formats import prepare_small_cifar10, prepare_small_cifar100
from tests.models.variables import random_variables
from tests.patterns import one_line_error

RNG = np.random.default_rng(0)


def config_of(folder, name="cifar10", **changes):
    given = {
        "total_steps": 4,
        "batch_size": 10,
        "eval_batch_size": 20,
        "model": {"name": "densenet7_k4"},
        "data": {"name": name, "data_dir": str(folder)},
    }
    return config_lib.resolve(runs.tiny_config(str(folder), **{**given, **changes}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """CIFAR-10, on which a run has averaged its weights, and CIFAR-100."""
    folder = tmp_path_factory.mktemp("initial")
    prepare_small_cifar10(folder, num_train=40, num_test=20)
    prepare_small_cifar100(folder, num_train=100, num_test=20)
    config = config_of(folder, ema_decay=0.5, checkpoint_every_steps=2)
    train_and_evaluate(config, folder / "source")
    return folder


def restored(workdir, which="latest"):
    return restore_network(workdir, which, mesh_lib.replicated(mesh_lib.make_mesh()))


def stored(folder, which="latest"):
    return restored(folder / "source", which).variables


@pytest.fixture(scope="module")
def file(folder):
    path = folder / "weights.safetensors"
    weights = to_torch("densenet7_k4", stored(folder), num_classes=10, input_shape=(32, 32, 3))
    write_state_dict(path, weights)
    assert weight_shapes("densenet7_k4", weights, input_shape=(32, 32, 3)) == (10, 3)
    return path


def started(config, folder, **changes):
    """The variables as they are initialised, and those that a run starts from."""
    info = dataclasses.replace(data.describe(config.data), **changes)
    model = create_configured_model(config, info.num_classes)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *info.image_shape)))
    seeds = () if config.num_seeds == 1 else (config.num_seeds,)
    new = jax.tree.map(lambda x: jnp.asarray(RNG.normal(size=(*seeds, *x.shape)), x.dtype), shapes)
    return new, initial_variables(config, info, new, folder / "run")


def equal(one, other):
    return jax.tree.all(jax.tree.map(np.array_equal, one, other))


@pytest.mark.parametrize("which", ["latest", "best", "2"])
def test_the_averages_of_a_checkpoint_are_taken(folder, which, capsys):
    config = config_of(folder, init_from=str(folder / "source"), init_checkpoint=which)
    new, start = started(config, folder)
    assert jax.tree.structure(start) == jax.tree.structure(new)
    assert equal(start, stored(folder, which))
    out = capsys.readouterr().out
    assert f"starting from {folder / 'source'} after step" in out and "classifier" not in out


def test_a_file_has_the_same_weights(folder, file, capsys):
    _, start = started(config_of(folder, init_from=str(file)), folder)
    assert equal(start, stored(folder))
    assert f"starting from {file}\n" in capsys.readouterr().out


def test_weights_of_tensorflow_are_refused_for_a_network_that_pads_otherwise(
    folder, file, tmp_path
):
    copied = shutil.copy(file, tmp_path)
    (tmp_path / "config.json").write_text('{"architecture": "tf_densenet7_k4"}')
    message = one_line_error(started, config_of(folder, init_from=str(copied)), folder)
    assert message.startswith("these are the weights of tf_densenet7_k4, which pads as TensorFlow")


@pytest.mark.slow
def test_weights_of_tensorflow_have_its_epsilon(folder, tmp_path):
    name, network = "efficientnet_b0", {"input_shape": (32, 32, 3), "padding": "same"}
    variables = random_variables(create_model(name, 10, padding="same"), 32, np.float32)
    weights = to_torch(name, variables, num_classes=10, dialect="timm", **network)
    write_state_dict(tmp_path / "w.safetensors", weights)
    (tmp_path / "config.json").write_text('{"architecture": "tf_efficientnet_b0"}')
    model = {"name": name, "args": {"padding": "same"}}
    init_from = str(tmp_path / "w.safetensors")
    _, start = started(config_of(folder, model=model, init_from=init_from), folder)
    assert equal(start, from_torch(name, weights, epsilon=1e-3, **network))
    assert not equal(start, variables)


@pytest.mark.parametrize("source", ["source", "weights.safetensors"])
def test_another_head_is_new(folder, file, source, capsys):
    config = config_of(folder, "cifar100", init_from=str(folder / source))
    new, start = started(config, folder)
    params, old = dict(start["params"]), dict(stored(folder)["params"])
    assert equal(params.pop("classifier"), new["params"]["classifier"])
    assert old.pop("classifier")["bias"].shape == (10,)
    assert equal(params, old)
    assert equal(start["batch_stats"], stored(folder)["batch_stats"])
    assert "; the classifier is new, for 100 classes\n" in capsys.readouterr().out


def test_a_head_of_as_many_other_classes_is_new(folder, capsys):
    config = config_of(folder, init_from=str(folder / "source"))
    new, start = started(config, folder, class_names=tuple("abcdefghij"))
    assert equal(start["params"]["classifier"], new["params"]["classifier"])
    assert equal(start["params"]["stem_conv"], stored(folder)["params"]["stem_conv"])
    assert "; the classifier is new, for 10 classes\n" in capsys.readouterr().out


def test_all_seeds_start_from_one_network(folder):
    config = config_of(folder, "cifar100", init_from=str(folder / "source"), num_seeds=3)
    new, start = started(config, folder)
    kernels = start["params"]["classifier"]["kernel"]
    assert equal(kernels, new["params"]["classifier"]["kernel"])
    assert not equal(kernels[0], kernels[1])
    for seed in range(3):
        stem = jax.tree.map(lambda x, seed=seed: x[seed], start["params"]["stem_conv"])
        assert equal(stem, stored(folder)["params"]["stem_conv"])


@pytest.mark.slow
def test_fine_tuning_of_the_head_alone(folder, tmp_path):
    shutil.copytree(folder / "source", tmp_path / "source")
    config = config_of(
        folder,
        "cifar100",
        init_from=str(tmp_path / "source"),
        lr_factors=(("classifier/bias", 0.5), ("(?!classifier).*", 0)),
        weight_decay=0.1,
        ema_decay=0.0,
    )
    summary = train_and_evaluate(config, tmp_path / "run")
    tuned = restored(tmp_path / "run").variables
    old = stored(folder)
    classifier = tuned["params"].pop("classifier")
    old["params"].pop("classifier")
    assert equal(tuned["params"], old["params"])
    assert classifier["bias"].shape == (100,) and np.abs(classifier["bias"]).max() > 0
    # The statistics of normalisations follow the data.
    assert not equal(tuned["batch_stats"], old["batch_stats"])

    # A run that goes on does so from its own checkpoint.
    shutil.rmtree(tmp_path / "source")
    assert train_and_evaluate(config, tmp_path / "run") == summary


@pytest.mark.slow
def test_with_a_learning_rate_of_zero_a_run_ends_where_it_starts(folder, file, tmp_path):
    config = config_of(folder, init_from=str(file), lr=0.0, total_steps=1)
    train_and_evaluate(config, tmp_path / "run")
    assert equal(restored(tmp_path / "run").variables["params"], stored(folder)["params"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_from": "nowhere/run"}, "there is no workdir"),
        ({"init_from": "{folder}"}, "no checkpoint in"),
        ({"init_from": "{folder}/run"}, "is the workdir itself"),
        ({"init_from": "{folder}/source", "init_checkpoint": "3"}, "allowed: latest, best, 2, 4"),
        ({"init_from": "{folder}/none.safetensors"}, "can't be read"),
        (
            {"init_from": "{folder}/weights.safetensors", "init_checkpoint": "best"},
            "config.init_checkpoint=best is for the workdir of a run",
        ),
        (
            {"init_from": "{folder}/source", "model": {"name": "densenet7_k6"}},
            "does not fit 'densenet7_k6': batch_stats/head_norm/mean has the shape (",
        ),
        (
            {"init_from": "{folder}/source", "model": {"name": "densenet10_k4"}},
            "15 variables of 'densenet10_k4' are missing: batch_stats/stage1/layer2/norm1/mean, ",
        ),
        (
            {"init_from": "{folder}/source", "model": {"name": "resnet14"}},
            "does not fit: unknown variable of 'resnet14' 'batch_stats/head_norm/mean'",
        ),
        (
            {"init_from": "{folder}/weights.safetensors", "model": {"name": "densenet10_k4"}},
            "weights of 'densenet10_k4' are missing",
        ),
    ],
)
def test_what_no_run_starts_from(folder, file, changes, message):
    changes = {k: v.format(folder=folder) if "from" in k else v for k, v in changes.items()}
    assert message in one_line_error(started, config_of(folder, **changes), folder)


def test_a_checkpoint_needs_a_run_to_start_from():
    config = config_lib.resolve({"init_checkpoint": "best"})
    message = one_line_error(set_up, config, get_task(config), info=runs.DATASET)
    assert message.startswith("config.init_checkpoint is for weights to start from")


@pytest.mark.slow
def test_networks_of_several_seeds_start_as_many(folder, tmp_path):
    config = config_of(folder, num_seeds=2, total_steps=1)
    train_and_evaluate(config, tmp_path / "two")
    source = {"init_from": str(tmp_path / "two")}
    new, start = started(config_of(folder, num_seeds=2, **source), folder)
    kernels = start["params"]["classifier"]["kernel"]
    assert not equal(kernels[0], kernels[1]) and not equal(start, new)
    message = one_line_error(started, config_of(folder, **source), folder)
    assert "has networks of 2 seeds, and config.num_seeds is 1" in message
