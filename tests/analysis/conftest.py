"""A run that the commands can look at."""

import jax
import pytest

from aggnets_jax.train import train_and_evaluate
from tests import runs


@pytest.fixture(scope="session")
def workdir(data_dir, tmp_path_factory):
    """Of a network that has learnt something of the digits, and not all."""
    workdir = tmp_path_factory.mktemp("analysis") / "run"
    lengths = {"total_steps": 120, "eval_every_steps": 120, "checkpoint_every_steps": 120}
    train_and_evaluate(runs.tiny_config(data_dir, **lengths), workdir)
    return workdir


@pytest.fixture(scope="module")
def quick_compilation():
    """Programs that run a few times are compiled without optimisation."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
