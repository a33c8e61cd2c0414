"""Checkpoints from elsewhere, whole as far as checksums tell: what they say is data."""

import contextlib
import json
import shutil

import jax
import jax.numpy as jnp
import pytest
from hypothesis import strategies as st

from aggnets_jax import config as config_lib
from aggnets_jax import main, models
from aggnets_jax.convert.initialize import initial_variables
from aggnets_jax.runtime.mesh import make_mesh, replicated
from aggnets_jax.tasks.classification import Classification
from aggnets_jax.training.state import TrainState, zero_totals
from aggnets_jax.workdir import checkpoints
from aggnets_jax.workdir.checkpoint_writer import RunCheckpoints
from aggnets_jax.workdir.progress import Progress
from aggnets_jax.workdir.restore import restore_network
from tests.foreign import (
    CODE,
    JSON,
    NAMES,
    REFUSED,
    TEXTS,
    changed,
    few_and_many,
    fields_of,
    files_in,
    fuzz,
    nothing_ran,  # noqa: F401
    result_of,
)
from tests.runs import DATASET
from tests.test_trust import CONFIG


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A workdir with a checkpoint of a network of zeros, after step 1."""
    workdir = tmp_path_factory.mktemp("trust") / "run"
    config = config_lib.resolve(CONFIG)
    model = models.create_configured_model(config, DATASET.num_classes)
    images = jax.ShapeDtypeStruct((1, *DATASET.image_shape), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    variables = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    state = TrainState(
        seed=jnp.int32(0),
        step=jnp.int32(1),
        opt_state=(),
        ema=None,
        strength=None,
        totals=zero_totals(Classification.sums),
        **variables,
    )
    with RunCheckpoints(workdir, keep=1, config=CONFIG, dataset=DATASET) as checkpoints:
        checkpoints.save(state, Progress())
        checkpoints.finish()
    return workdir


@contextlib.contextmanager
def saying(workdir, config):
    """Makes a checkpoint say that it was saved with another config; nothing else is wrong."""
    files = {
        item: workdir / "checkpoints/1" / item / "metadata" for item in ("config", "checksums")
    }
    before = {file: file.read_bytes() for file in files.values()}
    checksums = json.loads(before[files["checksums"]])
    files["config"].write_text(json.dumps(config))
    files["checksums"].write_text(
        json.dumps({**checksums, "config": checkpoints.json_checksum(config)})
    )
    try:
        yield
    finally:
        for file, content in before.items():
            file.write_bytes(content)


def restore(workdir, which="latest"):
    return restore_network(workdir, which, replicated(make_mesh()))


NETWORK_FIELDS = [
    path for path in fields_of(CONFIG) if path[0] in ("model", "ema_decay", "num_seeds", "seed")
]


@few_and_many(15, 500)
def test_whatever_config_a_checkpoint_says_it_is_that_network_or_refused(examples, checkpoint):
    before = files_in(checkpoint.parent)
    changes = changed(CONFIG, NETWORK_FIELDS) | changed(CONFIG)
    found = {True: 0, False: 0}

    @fuzz(examples, changes | st.dictionaries(NAMES | TEXTS, JSON, max_size=3), also=[CONFIG])
    def _(config):
        with saying(checkpoint, config):
            restored = result_of(restore, checkpoint)
        found[restored is not REFUSED] += 1
        if restored is not REFUSED:
            assert restored.step == 1 and restored.info == DATASET
            assert config_lib.differences(config, config_lib.to_json(restored.config)) == []

    assert all(found.values())
    assert files_in(checkpoint.parent) == before


OTHER_NETWORKS = {
    "far too deep": {"name": "sparsenet_bc", "args": {"depth": 10**9, "growth_rate": 4}},
    "too deep": {"name": "sparsenet_bc", "args": {"depth": 999_994, "growth_rate": 4}},
    "too wide": {"name": "sparsenet_bc", "args": {"depth": 16, "growth_rate": 999_999}},
    "a number of thousands of digits": {"name": "sparsenet_bc" + "1" * 5000 + "_k4"},
    "code as a name": {"name": CODE},
    "code as a number": {"args": {"dropout": CODE}},
    "code as links": {"topology": "custom", "topology_args": {"edges": CODE}},
    "classes twice": {"args": {"num_classes": 2}},
    "a dtype twice": {"args": {"dtype": "float32"}},
    "too many stages": {"topology": ["sparse"] * 1000},
}
OTHER_RUNS = {
    "too many seeds": {"num_seeds": 2**31 - 1},
    "averages that are not there": {"ema_decay": 0.5},
    **{name: {"model": {**CONFIG["model"], **model}} for name, model in OTHER_NETWORKS.items()},
}


@pytest.mark.parametrize("what", OTHER_RUNS)
def test_a_network_that_is_not_that_of_the_checkpoint_is_told_before_it_is_built(what, checkpoint):
    with saying(checkpoint, {**CONFIG, **OTHER_RUNS[what]}):
        assert result_of(restore, checkpoint) is REFUSED


def test_places_that_a_checkpoint_names_are_left_alone(checkpoint, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "evil.py").write_text(CODE)
    before = files_in(tmp_path)
    config = json.loads(json.dumps(CONFIG))
    config["data"]["data_dir"] = config["init_from"] = str(outside)
    config["data"]["name"] = config["init_checkpoint"] = "../../evil"
    config["file"] = str(outside / "evil.py")
    written = tmp_path / "weights.safetensors"
    with saying(checkpoint, config):
        here = files_in(checkpoint.parent)
        assert result_of(restore, checkpoint) is not REFUSED
        command = ["convert", f"--workdir={checkpoint}", f"--to_torch={written}"]
        assert main.main(command) == 0
        assert files_in(checkpoint.parent) == here
    assert files_in(tmp_path).keys() == {*before, written}


ELSEWHERE = [
    "../../x",
    "/etc",
    "../x/1",
    "../checkpoints/1",
    "1/../1",
    "./1",
    "01",
    " 1",
    "1\n",
    ".",
]


@pytest.mark.parametrize("which", ELSEWHERE)
def test_checkpoints_are_found_in_their_workdir_alone(which, checkpoint, tmp_path, capsys):
    workdir = shutil.copytree(checkpoint, tmp_path / "run")
    shutil.copytree(workdir / "checkpoints/1", tmp_path / "x/1")
    before = files_in(tmp_path)
    for mode in (["eval"], ["convert", f"--to_torch={tmp_path}/w.safetensors"]):
        assert main.main([*mode, f"--workdir={workdir}", f"--checkpoint={which}"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: no checkpoint ") and error.count("\n") == 1
    config = config_lib.resolve({**CONFIG, "init_from": str(workdir)})
    config.init_checkpoint = which
    assert result_of(initial_variables, config, DATASET, {}, tmp_path / "new") is REFUSED
    assert files_in(tmp_path) == before
