"""Checkpoints: what was saved is what is restored, or it is told and the one before is taken."""

import dataclasses
import errno
import json
import logging
import os
import shutil
from pathlib import Path

import absl.logging
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aggnets_jax.errors import Damaged, Gone, OtherArrays, Unsaved, UserError
from aggnets_jax.workdir.checkpoints import Checkpoints, error_as_told
from aggnets_jax.workdir.progress import Progress
from tests.runs import DATASET
from tests.workdir.states import (
    CONFIG,
    assert_is,
    changed,
    files_of,
    make_state,
    open_checkpoints,
    restore,
    save,
)


def test_the_newest_is_restored(two):
    assert_is(restore(two), 2)
    assert not (two / "damaged").exists()


def test_nothing_is_restored_where_there_is_nothing(tmp_path):
    assert restore(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


PLACE = Path("run/checkpoints/3")


@pytest.mark.parametrize(
    "error",
    [Damaged(PLACE, "why"), OtherArrays(PLACE, "why"), Gone(PLACE), OSError("x"), UserError("y")],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_another_process_keeps_its_class_and_words(error):
    told = error_as_told(PLACE, type(error).__name__, getattr(error, "reason", str(error)))
    assert (type(told), str(told)) == (type(error), str(error))


# ---- Damage.


@pytest.mark.slow
def test_any_damage_to_any_file_is_harmless_or_found(two, tmp_path, capsys):
    """Whatever is damaged: the values are those of a checkpoint, to the bit."""
    found = {"flipped": 0, "truncated": 0, "missing": 0}
    rng = np.random.default_rng(0)
    for number, file in enumerate(files_of(two, 2)):
        for damage in found:
            copy = shutil.copytree(two, tmp_path / f"{number}-{damage}")
            victim = copy / file.relative_to(two)
            content = bytearray(victim.read_bytes())
            if damage == "missing":
                victim.unlink()
            elif content:
                place = rng.integers(len(content))
                flipped = content[:]
                flipped[place] ^= 1 << rng.integers(8)
                victim.write_bytes(flipped if damage == "flipped" else content[:place])
            state, _ = restored = restore(copy)
            assert_is(restored, state.updates)
            lines = capsys.readouterr().err.splitlines(keepends=True)
            errors = "".join(line for line in lines if line.startswith("warning: "))
            if state.updates == 1:
                found[damage] += 1
                aside = copy / "damaged" / "checkpoints-2"
                assert aside.is_dir()
                path = copy / "checkpoints" / "2"
                assert errors.startswith(f"warning: checkpoint {path} is damaged: ")
                assert errors.endswith(f"; set aside as {aside}\n")
                assert not path.exists()
            else:
                assert errors == ""
    # Orbax writes files that it does not read, and how many there are differs from save to save.
    files = len(files_of(two, 2))
    assert sum(found.values()) / len(found) > files / 4, found
    assert min(found.values()) > files / 5, found


def test_the_checksum_finds_values_that_orbax_restores_without_complaint(copy, capsys):
    """The arrays of another step, whole and readable, in the place of the saved ones."""
    shutil.rmtree(copy / "checkpoints/2/model")
    shutil.copytree(copy / "checkpoints/1/model", copy / "checkpoints/2/model")
    assert_is(restore(copy), 1)
    assert "model/batch_stats/norm/mean has another checksum" in capsys.readouterr().err


def test_the_checksum_finds_json_that_was_edited(copy, capsys):
    file = copy / "checkpoints/2/progress/metadata"
    file.write_text(file.read_text().replace('"evaluated": 2', '"evaluated": 3'))
    assert_is(restore(copy), 1)
    assert "its progress has another checksum" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda state: make_state(2, width=4),
            "model/batch_stats/norm/mean is float32 [4] there, and must be float32 [3]",
        ),
        (
            lambda state: jax.tree.map(lambda x: x.astype(jnp.float16), state),
            "model/batch_stats/norm/mean is float16 [3] there, and must be float32 [3]",
        ),
        (
            lambda state: state.replace(opt_state=(*state.opt_state, jnp.ones(5))),
            "training/opt_state/2 is float32 [5] there, and must be nothing",
        ),
        (
            lambda state: state.replace(opt_state={"momentum": state.opt_state[0]}),
            "training/opt_state/0/classifier/bias is nothing there, and must be float32 [2]",
        ),
    ],
)
def test_a_checkpoint_of_other_arrays_is_told_and_not_damaged(change, reason, copy):
    shutil.rmtree(copy / "checkpoints/2")
    with open_checkpoints(copy) as checkpoints:
        checkpoints.save(change(make_state(2)), Progress())
    with pytest.raises(UserError) as error:
        restore(copy)
    assert str(error.value) == (
        f"checkpoint {copy}/checkpoints/2 is intact, but of another network, precision"
        f" (JAX_ENABLE_X64) or version of aggnets_jax: {reason}"
    )
    assert (copy / "checkpoints/2").is_dir() and not (copy / "damaged").exists()


def test_a_checkpoint_of_other_arrays_with_a_wrong_checksum_is_damaged(copy, capsys):
    file = copy / "checkpoints/2/checksums/metadata"
    content = json.loads(file.read_text())
    content["model"]["batch_stats/norm/mean"][1] = [4]
    file.write_text(json.dumps(content))
    assert_is(restore(copy), 1)
    assert (
        "mean is float32 [4] there, and must be float32 [3]; set aside" in capsys.readouterr().err
    )


def test_progress_of_another_version_is_told_and_not_damaged(copy, monkeypatch):
    @dataclasses.dataclass
    class Older:
        evaluated: int = 0

    monkeypatch.setattr("aggnets_jax.workdir.checkpoint_writer.Progress", Older)
    with pytest.raises(UserError, match=r"checkpoint 2 of .* is of another version: .*keyword"):
        restore(copy)
    assert (copy / "checkpoints/2").is_dir()


def test_a_damaged_checkpoint_is_saved_again_and_a_second_one_set_aside_beside_it(copy):
    for number in ("", "-2"):
        (copy / "checkpoints/2/model/manifest.ocdbt").unlink()
        assert_is(restore(copy), 1)
        assert (copy / f"damaged/checkpoints-2{number}").is_dir()
        save(copy, 2)
        assert_is(restore(copy), 2)


def test_without_a_whole_checkpoint_the_run_stops_and_nothing_is_moved(copy):
    for step in (1, 2):
        shutil.rmtree(copy / f"checkpoints/{step}/training")
    for _ in range(2):
        with pytest.raises(UserError, match=r"no checkpoint .* is intact: .*checkpoints/2 is dam"):
            restore(copy)
    assert not (copy / "damaged").exists()


def test_a_run_does_not_start_again_beside_its_damaged_checkpoints(copy):
    (copy / "checkpoints/2/model/manifest.ocdbt").unlink()
    restore(copy)
    shutil.rmtree(copy / "checkpoints/1")
    with pytest.raises(UserError, match="has had checkpoints, and has none to resume from"):
        restore(copy)


def test_a_run_does_not_start_again_where_its_checkpoints_are_gone(tmp_path):
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save_best(make_state(4), Progress())
        checkpoints.finish()
    # As a kill before the first checkpoint leaves it: the run comes to that network again.
    assert restore(tmp_path) is None
    assert not any(p.name.isdigit() for p in (tmp_path / "best").iterdir())


@pytest.mark.parametrize(("older", "best"), [(1, 1), (2, None)])
def test_the_best_network_is_one_that_the_run_has_come_to(older, best, tmp_path):
    """best/ has networks of steps 1 and 4; the run goes on from step 3."""
    progress = Progress(best={"step": older, "accuracy": 0.5})
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save_best(make_state(1), progress)
        checkpoints.save(make_state(3), progress)
        checkpoints.save_best(make_state(4), progress)
        checkpoints.finish()
    _, progress = restore(tmp_path)
    assert (progress.best and progress.best["step"]) == best
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.find("best") == ("best", 1)
        assert checkpoints.find(1) == checkpoints.find("1")


@pytest.mark.parametrize("deleted", [False, True])
def test_a_best_network_that_is_damaged_or_gone_keeps_no_state_from_being_saved(
    deleted, tmp_path, capsys
):
    best = {"step": 1, "accuracy": 0.5}
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save_best(make_state(1), Progress(best=best))
        checkpoints.finish()
        checkpoints.note_failure(OSError("full"), 2, "best")
        if deleted:
            checkpoints._steps("best")
            shutil.rmtree(tmp_path / "best/1")
        else:
            (tmp_path / "best/1/progress/metadata").write_text("{")
        checkpoints.save(make_state(3), progress := Progress(best=best))
        checkpoints.finish()
    assert progress.best is None
    assert "checkpoint" in capsys.readouterr().err
    assert restore(tmp_path)[0].updates == 3


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.EIO, "Input/output error"), "can't be read: .*Input/output error"),
        (PermissionError(errno.EACCES, "Permission denied", "d/1"), "may not be read: .*d/1"),
        (ValueError("PERMISSION_DENIED: Error opening d/1"), "can't be read: PERMISSION_DENIED"),
        (ValueError("UNAVAILABLE: no answer"), "can't be read: UNAVAILABLE: no answer"),
    ],
)
def test_storage_that_can_not_be_read_is_no_damage(error, message, copy, monkeypatch):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(ocp.CheckpointManager, "restore", fail)
    kind = OSError if getattr(error, "errno", None) == errno.EIO else UserError
    with pytest.raises(kind, match=rf"checkpoints/2:? (it )?{message}"):
        restore(copy)
    assert not (copy / "damaged").exists()


@pytest.mark.parametrize("place", ["", "model", "checksums", "training/_METADATA", "model/d"])
def test_what_may_not_be_read_is_no_damage(place, copy, monkeypatch):
    """As a user who is not root sees it; root may read everything."""
    forbidden, access = copy / "checkpoints/2" / place, os.access

    def no_access(path, mode):
        return access(path, mode) and forbidden not in (path, *path.parents)

    def fail(*args, **kwargs):
        raise FileNotFoundError("item not found")  # as Orbax says

    monkeypatch.setattr(os, "access", no_access)
    monkeypatch.setattr(ocp.CheckpointManager, "restore", fail)
    with pytest.raises(UserError, match=rf"{forbidden}.* may not be read: item not found"):
        restore(copy)
    assert (copy / "checkpoints/2").is_dir() and not (copy / "damaged").exists()


def test_damage_is_told_if_the_checkpoint_before_is_refused(copy):
    other = changed(lr=0.5)
    with open_checkpoints(copy, config=other) as checkpoints:
        checkpoints.save(make_state(3), Progress())
        checkpoints.finish()
    (copy / "checkpoints/3/progress/metadata").write_text("")
    with pytest.raises(UserError, match=r"checkpoints/3 is damaged: .*another config \(lr"):
        restore(copy, config=other)


def test_reading_alone_moves_nothing(copy):
    (copy / "checkpoints/2/config/metadata").write_text("{")
    with Checkpoints(copy) as checkpoints, pytest.raises(Damaged):
        checkpoints.restore_config(*checkpoints.find("latest"))
    assert (copy / "checkpoints/2").is_dir()


def test_an_unfinished_save_does_not_count(copy):
    shutil.copytree(copy / "checkpoints/2", copy / "checkpoints/3.orbax-checkpoint-tmp")
    assert_is(restore(copy), 2)


# ---- Metadata that no run has written.

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(
            st.sampled_from(["config", "params", "step", "item_metadata", "tree_metadata", "x"]),
            children,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    content=st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()),
    data=st.data(),
)
def test_whatever_the_metadata_says_the_values_are_right_or_it_is_an_error(
    content, data, two, tmp_path_factory
):
    copy = shutil.copytree(two, tmp_path_factory.mktemp("fuzz") / "copy")
    texts = [f for f in files_of(copy, 2) if f.parent.name != "d" and f.suffix != ".ocdbt"]
    data.draw(st.sampled_from(texts)).write_bytes(content)
    before = {file for file in copy.rglob("*") if file.is_file()}
    with Checkpoints(copy) as checkpoints:
        try:
            assert checkpoints.restore_config("checkpoints", 2) == CONFIG
            assert checkpoints.restore_dataset("checkpoints", 2) == DATASET
        except UserError as error:
            assert "\n" not in str(error)
    assert {file for file in copy.rglob("*") if file.is_file()} == before
    state, _ = restored = restore(copy)
    assert_is(restored, state.updates)


@pytest.mark.parametrize("name", ["2x", "-3", "0007", "notes.txt", "7"])
def test_other_names_in_the_folder_are_no_checkpoints(name, copy):
    (copy / "checkpoints" / name).write_text("mine")
    assert_is(restore(copy), 2)


# ---- Another config, another data set.


def test_a_failed_save_leaves_what_is_there_and_the_next_one_tries_again(tmp_path, capsys):
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save(make_state(1), Progress(evaluated=1))
        checkpoints.finish()
        (tmp_path / "checkpoints").rename(tmp_path / "gone")
        (tmp_path / "checkpoints").write_text("not a directory")
        checkpoints.save(make_state(2), Progress(evaluated=2))
        with pytest.raises(Unsaved, match="the state after step 2 could not be saved: "):
            checkpoints.finish()
        (tmp_path / "checkpoints").unlink()
        (tmp_path / "gone").rename(tmp_path / "checkpoints")
        checkpoints.save(make_state(3), Progress(evaluated=3))
        checkpoints.finish()
    assert capsys.readouterr().err.count("\n") == 1
    assert_is(restore(tmp_path), 3)
    shutil.rmtree(tmp_path / "checkpoints/3")
    assert_is(restore(tmp_path), 1)


@pytest.mark.slow
def test_reading_warns_of_nothing(finished_run):
    """From Python, too, where absl's messages are shown."""
    records, handler = [], logging.Handler()
    logger = absl.logging.get_absl_logger()
    handler.emit = records.append
    before = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.WARNING)
    logger.addHandler(handler)
    try:
        with Checkpoints(finished_run) as checkpoints:
            assert checkpoints.newest() == 12
            checkpoints.find("best")
        assert records == []
        assert absl.logging.get_verbosity() == absl.logging.WARNING
    finally:
        logger.removeHandler(handler)
        absl.logging.set_verbosity(before)
