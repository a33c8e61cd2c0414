"""The loop keeps the devices busy: nothing between them and it that has to be waited for."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax import data, train
from aggnets_jax.data import image_folder
from aggnets_jax.train import train_and_evaluate
from tests import runs
from tests.data.image_folders import make_image_folder

# The step at which the loop goes around for the second time, and that at which it ends.
FIRST, LAST = 2, 8


@pytest.mark.parametrize(
    ("resident", "steps_per_dispatch"),
    [
        ("always", 2),
        pytest.param("always", 1, marks=pytest.mark.slow),
        pytest.param("never", 1, marks=pytest.mark.slow),
    ],
)
def test_nothing_waits_or_is_moved_unasked(
    resident, steps_per_dispatch, data_dir, tmp_path, monkeypatch
):
    """The calls of the loop from the second dispatch to the last: in this order, and no more."""
    config = runs.tiny_config(
        data_dir,
        total_steps=LAST,
        log_every_steps=4,
        eval_every_steps=LAST,
        checkpoint_every_steps=LAST,
        steps_per_dispatch=steps_per_dispatch,
        model={"name": "sparsenet10_k4"},
    )
    config["data"]["resident"] = resident
    events = []
    kind = data.ResidentData if resident == "always" else data.StreamedData
    array = type(jnp.zeros(()))
    feed, log, value = kind.feed, train.training_metrics, array._value

    def noted_feed(self, step):
        if step == FIRST:
            events.clear()
            jax.config.update("jax_transfer_guard", "disallow")
        events.append(f"steps from {step}")
        return feed(self, step)

    def noted_log(task, totals, config):
        events.append("log")
        metrics = log(task, totals, config)
        jax.config.update("jax_transfer_guard", "allow")
        return metrics

    def noted_value(self):
        events.append("read")
        return value.fget(self)

    monkeypatch.setattr(kind, "feed", noted_feed)
    monkeypatch.setattr(train, "training_metrics", noted_log)
    monkeypatch.setattr(array, "_value", property(noted_value))
    try:
        train_and_evaluate(config, tmp_path)
    finally:
        jax.config.update("jax_transfer_guard", "allow")

    until = events[: events.index("log")]
    # The line of step 4 is read when the step after it has been dispatched.
    dispatched = [
        f"steps from {step}" for step in range(FIRST, 4 + steps_per_dispatch, steps_per_dispatch)
    ]
    assert until[: len(dispatched)] == dispatched
    assert set(until[len(dispatched) :]) == {"read"}


def test_the_guard_sees_what_is_moved_unasked():
    with jax.transfer_guard("disallow"), pytest.raises(Exception, match="Disallowed"):
        jax.jit(lambda x: x + 1)(np.int32(1))


@pytest.mark.slow
def test_a_profile_is_written_for_the_steps_asked_for(data_dir, tmp_path):
    train_and_evaluate(runs.tiny_config(data_dir, total_steps=4, profile_steps=(2, 3)), tmp_path)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


@pytest.mark.slow
def test_a_run_lists_a_folder_once(tmp_path, monkeypatch):
    """Also if an image comes meanwhile, which the next run has."""
    folder = make_image_folder(tmp_path / "data", {"test": 2, "train": 2})
    listed, list_split = [], image_folder._list_split

    def listing(split):
        listed.append(split)
        found = list_split(split)
        shutil.copy(folder / "test/red/0.jpg", folder / f"test/red/new{len(listed)}.jpg")
        return found

    monkeypatch.setattr(image_folder, "_list_split", listing)
    config = {
        **{"total_steps": 1, "batch_size": 6, "model": {"name": "densenet7_k4"}},
        "data": {"name": "image_folder", "data_dir": str(folder), "image_size": 8},
    }
    for number, images in enumerate((6, 8)):
        summary = train_and_evaluate(config, tmp_path / f"run{number}")
        assert summary["final"]["examples"] == images
    assert listed == [str(folder / split) for split in ("test", "train")] * 2
