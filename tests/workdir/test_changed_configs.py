"""Checkpoints that a run with another config or data set goes on from, or refuses."""

import dataclasses
import shutil

import jax
import pytest

from aggnets_jax import config as config_lib
from aggnets_jax.errors import UserError
from aggnets_jax.workdir.progress import Progress
from tests.runs import DATASET
from tests.workdir.states import CONFIG, changed, make_state, open_checkpoints, restore


def test_another_config_is_refused_and_may_be_allowed(copy):
    other = changed(lr=0.5, seed=7)
    with pytest.raises(UserError, match=r"another config \(lr: 0.1 -> 0.5; seed: 0 -> 7\)"):
        restore(copy, config=other)
    state, progress = restore(
        copy, config=other, state=make_state(0, seed=7), allow_config_change=True
    )
    assert int(state.seed) == 7
    assert progress.config_changes == [{"step": 2, "changes": ["lr: 0.1 -> 0.5", "seed: 0 -> 7"]}]


def test_another_data_set_is_refused_and_may_be_allowed(copy):
    other = dataclasses.replace(DATASET, num_train=11)
    with pytest.raises(UserError, match=r"changed since .* \(data set's num_train\)"):
        restore(copy, dataset=other)
    _, progress = restore(copy, dataset=other, allow_config_change=True)
    assert progress.config_changes[0]["changes"] == ["data set's num_train"]


def test_a_change_that_the_state_can_not_follow_is_refused_and_nothing_set_aside(copy):
    with pytest.raises(UserError, match=r"can't go on with that change .*lr: 0.1 -> 0.5.*float32"):
        restore(
            copy, config=changed(lr=0.5), state=make_state(0, width=4), allow_config_change=True
        )
    assert (copy / "checkpoints/2").is_dir()


def test_a_config_from_before_a_field_there_is_now_is_the_same(copy):
    older = {name: value for name, value in CONFIG.items() if name != "skip_nonfinite_steps"}
    assert config_lib.differences(older, CONFIG) == []
    assert config_lib.differences(older, changed(skip_nonfinite_steps=2)) == [
        "skip_nonfinite_steps: 0 -> 2"
    ]


# ---- Checksums.


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda state: make_state(2, width=4), "float32 [4] there"),
        (lambda state: jax.tree.map(lambda x: x.astype("float64"), state), "float64 [3] there"),
    ],
)
def test_a_checkpoint_of_other_arrays_and_other_devices_is_not_damaged(change, reason, copy):
    shutil.rmtree(copy / "checkpoints/2")
    with jax.enable_x64(), open_checkpoints(copy) as checkpoints:
        checkpoints.save(change(make_state(2)), Progress())
    for file in (copy / "checkpoints/2").rglob("_sharding"):
        file.write_text(file.read_text().replace("cpu:0", "tpu:7"))
    with pytest.raises(UserError) as error:
        restore(copy)
    assert "checkpoints/2 is intact, but of another network" in str(error.value)
    assert reason in str(error.value)
