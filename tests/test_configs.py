"""Every file in configs/ runs, two steps long."""

import pytest

from aggnets_jax import config as config_lib
from aggnets_jax.train import train_and_evaluate
from tests import runs
from tests.data.official_formats import prepare_small_cifar10

CONFIGS = sorted((runs.ROOT / "configs").rglob("*.py"))


@pytest.fixture(scope="module")
def all_data(tmp_path_factory):
    """The digits are prepared when they are needed; CIFAR-10 has its official format."""
    folder = tmp_path_factory.mktemp("all_data")
    prepare_small_cifar10(folder, num_train=40, num_test=20)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_config_runs(file, all_data, tmp_path):
    overrides = [
        "total_steps=2",
        "batch_size=4",
        "eval_batch_size=20",
        "schedule=constant",
        "schedule_args={}",
        f"data.data_dir={all_data}",
    ]
    summary = train_and_evaluate(config_lib.load(str(file), overrides), tmp_path)
    assert summary["steps"] == 2
    assert 0 <= summary["final"]["accuracy"] <= 1
