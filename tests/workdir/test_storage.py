"""Storage that is full, read-only or gone while a run saves."""

import shutil
import subprocess

import pytest

from aggnets_jax.evaluate import evaluate_checkpoint
from aggnets_jax.train import train_and_evaluate
from aggnets_jax.workdir.checkpoint_writer import RunCheckpoints
from aggnets_jax.workdir.progress import Progress
from tests import runs
from tests.workdir import states


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("only root can mount a file system")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.mark.slow
def test_a_full_disk_costs_no_checkpoint_and_the_run_goes_on_when_there_is_room(
    small_disk, data_dir, tmp_path
):
    config = runs.tiny_config(data_dir, checkpoint_every_steps=1, keep_checkpoints=100)
    file = runs.write_config(tmp_path / "tiny.py", config)
    arguments = (f"--config={file}", f"--workdir={small_disk / 'run'}")
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1_200_000))
    code, out, err = runs.finish(runs.start(*arguments))
    assert code == 74
    *warnings, error = err.splitlines()
    assert warnings and all(line.startswith("warning: the ") for line in warnings)
    assert "could not be saved: " in error and "the same command goes on from s" in error
    assert "step 12/12" in out  # it did not stop on the way
    step = int(error.split()[-1])
    assert evaluate_checkpoint(small_disk / "run", str(step))["step"] == step

    ballast.unlink()
    code, out, err = runs.finish(runs.start(*arguments, "--config.keep_checkpoints=1"))
    assert (code, err) == (0, "")
    assert f"continuing after step {step} of 12" in out
    whole = train_and_evaluate(runs.tiny_config(data_dir), tmp_path / "whole")
    assert runs.summary(small_disk / "run")["fingerprint"] == whole["fingerprint"]
    assert runs.metrics(small_disk / "run") == runs.metrics(tmp_path / "whole")


@pytest.mark.slow
def test_a_disk_without_any_room_is_told_in_one_line(small_disk, data_dir, tmp_path):
    file = runs.write_config(tmp_path / "tiny.py", runs.tiny_config(data_dir))
    with pytest.raises(OSError, match="No space"):
        (small_disk / "ballast").write_bytes(bytes(3_000_000))
    code, _, err = runs.finish(runs.start(f"--config={file}", f"--workdir={small_disk / 'run'}"))
    assert code in (2, 74)
    assert err.startswith("error: ") and "No space left on device" in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_a_read_only_disk_is_told_in_one_line_and_can_be_evaluated(small_disk, data_dir, tmp_path):
    config = runs.tiny_config(data_dir, keep_checkpoints=1, total_steps=4)
    train_and_evaluate(config, small_disk / "run")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    file = runs.write_config(tmp_path / "tiny.py", config)
    code, _, err = runs.finish(runs.start(f"--config={file}", f"--workdir={small_disk / 'run'}"))
    assert (code, err.count("\n")) == (2, 1)
    assert "can't be used" in err and "Read-only file system" in err
    code, out, err = runs.finish(runs.start("eval", f"--workdir={small_disk / 'run'}"))
    assert (code, err) == (0, "")
    assert "not written to" in out


@pytest.mark.slow
def test_a_disk_that_is_gone_for_a_while(data_dir, tmp_path, monkeypatch, capsys):
    """The folder of the checkpoints vanishes after step 5 and is back after step 10."""
    save = RunCheckpoints.save
    folder, away = tmp_path / "run" / "checkpoints", tmp_path / "away"

    def vanishing(self, state, progress):
        if state.updates == 10:
            self._settle("checkpoints")
            shutil.move(folder, away)
            folder.write_text("not a directory")
        elif state.updates == 12:
            self._settle("checkpoints")
            folder.unlink()
            shutil.move(away, folder)
        save(self, state, progress)

    monkeypatch.setattr(RunCheckpoints, "save", vanishing)
    train_and_evaluate(runs.tiny_config(data_dir), tmp_path / "run")
    err = capsys.readouterr().err
    assert err.startswith("warning: the state after step 10 could not be saved: ")
    assert err.count("\n") == 1
    assert sorted(p.name for p in folder.iterdir()) == ["12", "5"]


def test_a_storage_that_does_not_say_which_network_was_the_best(tmp_path, monkeypatch, capsys):
    """The state can't be saved then, and the run goes on."""

    def gone(folder):
        raise OSError(f"{folder} is gone")

    with states.open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save(states.make_state(1), Progress(evaluated=1))
        checkpoints.note_failure(OSError("gone"), 2, "best")
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, "_steps", gone)
            checkpoints.save(states.make_state(3), Progress(evaluated=3))
        said = capsys.readouterr().err.splitlines()
        assert said[1:] == ["warning: the state after step 3 could not be saved: best is gone"]
        checkpoints.save(states.make_state(4), Progress(evaluated=4))
        checkpoints.finish()
    states.assert_is(states.restore(tmp_path), 4)
