"""`results/kills.py`: what it compares, and a few kills."""

import csv
import json
import shutil

import pytest

from aggnets_jax.workdir.metric_log import MetricLog
from results import kills

SUMMARY = {
    "steps": 4,
    "fingerprint": "0a",
    "final": {"step": 4, "loss": 0.5},
    "best": {"step": 2, "loss": 0.5},
    "seeds": [],
    "versions": {"jax": "1", "orbax-checkpoint": "2"},
    "commit": None,
    "hardware": "1 x cpu",
}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Return the files that a run of four steps could have left."""
    workdir = tmp_path_factory.mktemp("unbroken")
    (workdir / "summary.json").write_text(json.dumps(SUMMARY))
    with MetricLog(workdir, {}) as log:
        for step in (2, 4):
            log.write(step, {"train/loss": 1 / step})
            log.write(step, {"train/images_per_second": step}, "timing")
    return workdir


def _change(name, change):
    return lambda workdir: (workdir / name).write_text(change((workdir / name).read_text()))


def _log_again(workdir):
    """Leaves a second file of events that repeats one."""
    other = workdir / "other"
    other.mkdir()
    with MetricLog(other, {}) as log:
        log.write(4, {"train/loss": 0.25})
    for file in (other / "tensorboard").iterdir():
        file.rename(workdir / "tensorboard" / f"{file.name}.2")


def _lose_events(workdir):
    for file in (workdir / "tensorboard").iterdir():
        file.unlink()


def test_equal_runs_do_not_differ(unbroken, tmp_path):
    workdir = shutil.copytree(unbroken, tmp_path / "run")
    assert kills.steps_in_tensorboard(workdir)["train/loss"] == [2, 4]
    # Speeds are not the same.
    _change("timing.jsonl", lambda text: text.replace(": 2.0", ": 7.0"))(workdir)
    assert kills.differences(workdir, unbroken) == []


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (_change("metrics.jsonl", lambda text: text + text.splitlines()[1] + "\n"), "metrics"),
        (_change("metrics.jsonl", lambda text: text.partition("\n")[2]), "metrics"),
        (_change("metrics.jsonl", lambda text: text.replace("0.25", "0.26")), "metrics"),
        (_change("timing.jsonl", lambda text: text + text.splitlines()[1] + "\n"), "timing"),
        (_change("timing.jsonl", lambda text: text.partition("\n")[2]), "timing"),
        (_change("summary.json", lambda text: text.replace("0a", "0b")), "fingerprint"),
        (_change("summary.json", lambda text: text.replace('"step": 2', '"step": 3')), "best"),
        (_log_again, "TensorBoard"),
        (_lose_events, "TensorBoard"),
    ],
)
def test_what_is_doubled_lost_or_changed_is_told(damage, what, unbroken, tmp_path):
    workdir = shutil.copytree(unbroken, tmp_path / "run")
    damage(workdir)
    (told,) = kills.differences(workdir, unbroken)
    assert told.startswith("run: ") and what in told


def test_a_checkpoint_that_evaluates_to_something_else_is_told(unbroken):
    class Other:
        def evaluate(self, workdir, checkpoint):
            return SUMMARY["final"]

    (told,) = kills.evaluation_differences(Other(), unbroken)
    assert "the best checkpoint evaluates to {'step': 4" in told


@pytest.mark.parametrize(
    ("printed", "step"),
    [
        ("usage", None),
        ("digits: 3 + 2 images of 8x8x1, 10 classes; 1 cpu device(s)\nstep 1/60", 0),
        ("digits: ...; 8 cpu device(s); continuing after step 33 of 60\nstep 34/60", 33),
        ("digits: ...; 8 cpu device(s) in 2 processes; continuing after step 33 of 60\n", 33),
    ],
)
def test_the_step_from_which_a_run_goes_on_is_read(printed, step):
    assert kills.step_gone_on_from(printed) == step


def test_phases(tmp_path):
    def phase(printed):
        return kills.phase_of_killed(tmp_path, printed, unfinished_before=set())

    assert phase("digits: 3 images\n") == "starting"
    assert phase("digits: 3 images\nstep  1/60") == "training"
    (tmp_path / "best" / "5.orbax-checkpoint-tmp-17").mkdir(parents=True)
    assert phase("digits: 3 images\nstep  1/60") == "saving"
    assert kills.phase_of_killed(tmp_path, "", kills.unfinished(tmp_path)) == "starting"
    (tmp_path / "summary.json").touch()
    assert phase("") == "ended"


@pytest.mark.parametrize(("went_on_from", "code"), [(3, None), (0, "went on from step 0, not 3")])
def test_the_table_and_the_exit_code(went_on_from, code, monkeypatch, tmp_path, capsys):
    seen = [kills.Kill("0-0", 1.234, "saving", 3, went_on_from)]
    monkeypatch.setattr(kills, "measure", lambda *_: (seen, kills.steps_lost(seen), SUMMARY))
    monkeypatch.setattr(kills.tempfile, "mkdtemp", lambda prefix: str(tmp_path / "folder"))
    (tmp_path / "folder").mkdir()
    arguments = ["--kills=1", f"--output={tmp_path / 'kills.csv'}"]
    if code is None:
        assert kills.main(arguments) == 0
    else:
        with pytest.raises(SystemExit, match=code):
            kills.main(arguments)
    assert "1 kills (0 starting, 0 training, 1 saving, 0 ended)" in capsys.readouterr().out
    (row,) = csv.DictReader((tmp_path / "kills.csv").open())
    assert (row["phase"], row["seconds"], row["jax"]) == ("saving", "1.23", "1")
    assert row["went_on_from"] == str(went_on_from)


@pytest.mark.parametrize("flag", ["--kills=0", "--seed=-1", "--kills=a", "--output=/nowhere/a.csv"])
def test_bad_flags_are_told(flag, capsys):
    assert kills.main([flag]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_kills_lose_nothing(tmp_path):
    of_runs, wrong, _ = kills.measure(tmp_path, number=5, seed=1)
    assert wrong == []
    assert len(of_runs) == 5
    assert all(kill.went_on_from == kill.newest_checkpoint for kill in of_runs)
