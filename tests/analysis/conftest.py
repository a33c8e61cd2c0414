"""A run that the commands can look at."""

import shutil

import jax
import numpy as np
import pytest

from aggnets_jax import config as config_lib
from aggnets_jax import data
from aggnets_jax.convert.runs import write_new_run
from aggnets_jax.models import create_configured_model
from aggnets_jax.train import train_and_evaluate
from aggnets_jax.workdir.restore import restore_network
from tests import runs
from tests.models.variables import random_variables


@pytest.fixture(scope="session")
def workdir(made_once, data_dir, tmp_path_factory):
    """Return the workdir of a network that has learnt a part of the digits."""

    def train(folder):
        lengths = {"total_steps": 120, "eval_every_steps": 120, "checkpoint_every_steps": 120}
        train_and_evaluate(runs.tiny_config(data_dir, **lengths), folder / "run")

    made = made_once("analysed_run", train)
    return shutil.copytree(made / "run", tmp_path_factory.mktemp("analysis") / "run")


@pytest.fixture(scope="session")
def two_runs(made_once, data_dir):
    """Return a folder with the runs "a" and "b" of a network with random weights."""

    def make(folder):
        config = config_lib.resolve(runs.tiny_config(data_dir, batch_size=64))
        model = create_configured_model(config, 10)
        for number, name in enumerate("ab"):
            variables = random_variables(model, 8, np.float32, channels=1)
            moved = jax.tree.map(lambda x, number=number: x * (1 + 0.1 * number), variables)
            write_new_run(config, data.describe(config.data), moved, folder / name)

    return made_once("two_runs", make)


@pytest.fixture
def against_other_images(monkeypatch):
    """Return a function that gives the networks of an analysis's --against another split."""

    def change(module, split):
        def restore(path, *arguments):
            restored = restore_network(path, *arguments)
            restored.config.data.eval_split = split
            return restored

        monkeypatch.setattr(module, "restore_network", restore)

    return change
