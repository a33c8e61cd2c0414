"""A run that the commands can look at."""

import shutil

import pytest

from aggnets_jax.train import train_and_evaluate
from tests import runs


@pytest.fixture(scope="session")
def workdir(made_once, data_dir, tmp_path_factory):
    """Return the workdir of a network that has learnt a part of the digits."""

    def train(folder):
        lengths = {"total_steps": 120, "eval_every_steps": 120, "checkpoint_every_steps": 120}
        train_and_evaluate(runs.tiny_config(data_dir, **lengths), folder / "run")

    made = made_once("analysed_run", train)
    return shutil.copytree(made / "run", tmp_path_factory.mktemp("analysis") / "run")
