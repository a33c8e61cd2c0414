"""Runs of other optimisers than SGD are stopped and go on to the same bits."""

import signal

import pytest

from aggnets_jax.errors import Stopped
from aggnets_jax.train import train_and_evaluate
from tests import runs
from tests.test_train import _assert_same_run, _interrupt


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["lamb", "muon", "adafactor", "schedule_free_adamw"])
def test_other_optimisers_go_on_to_the_bit(optimizer, data_dir, tmp_path, monkeypatch):
    config = runs.tiny_config(data_dir, optimizer=optimizer, lr=0.01)
    summary = train_and_evaluate(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        _interrupt(patch, 5, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(Stopped):
            train_and_evaluate(config, tmp_path / "stopped")
    resumed = train_and_evaluate(config, tmp_path / "stopped")
    _assert_same_run(resumed, tmp_path / "stopped", summary, tmp_path / "whole")
