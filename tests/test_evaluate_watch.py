"""`aggnets eval --watch` beside a run: its checkpoints are evaluated until it is finished."""

import json
import re
import shutil
import signal

import pytest

from aggnets_jax import evaluate as watch_module
from aggnets_jax.errors import Stopped, UserError
from aggnets_jax.evaluate import evaluate_checkpoint, watch
from aggnets_jax.main import main


@pytest.fixture(scope="module")
def workdir(finished_run, tmp_path_factory):
    """Return the workdir of a finished run."""
    return shutil.copytree(finished_run, tmp_path_factory.mktemp("watch") / "run")


def test_a_finished_run_is_evaluated_once(workdir, capsys):
    watch(workdir)
    out = capsys.readouterr().out
    assert re.findall(r"^step (\d+)  evaluation", out, re.M) == ["12"]
    found = json.loads((workdir / "evaluation.json").read_text())
    assert found == evaluate_checkpoint(workdir, "12")


def test_checkpoints_are_evaluated_as_they_come(workdir, monkeypatch, capsys):
    """One that is gone is passed over, one that comes twice is not evaluated again."""
    found = [(-1, -2), (-1, -2), (5, -2), (10, -2), (10, -2), (12, 12), (12, 12)]
    looks = iter([(newest, last, False) for newest, last in found])
    monkeypatch.setattr(watch_module, "_look", lambda _: next(looks))
    slept = []
    monkeypatch.setattr(watch_module.time, "sleep", slept.append)
    assert not (workdir / "checkpoints" / "5").exists()
    watch(workdir, look_every=3)
    out = capsys.readouterr().out
    assert re.findall(r"^step (\d+)  evaluation", out, re.M) == ["10", "12"]
    assert out.count("waiting for a checkpoint") == 2
    assert slept == [3, 3, 3, 3]


def test_a_run_that_diverges_ends_it(workdir, tmp_path, monkeypatch, capsys):
    """The report may be there before the last checkpoint, which is evaluated."""
    copy = shutil.copytree(workdir, tmp_path / "run")
    (copy / "summary.json").unlink()
    (copy / "checkpoints" / "12").rename(tmp_path / "12")
    (copy / "divergence.json").write_text("{}")
    sleeps = iter([lambda: (tmp_path / "12").rename(copy / "checkpoints" / "12"), lambda: None])
    monkeypatch.setattr(watch_module.time, "sleep", lambda _: next(sleeps)())
    assert main(["eval", "--watch", f"--workdir={copy}"]) == 3
    output = capsys.readouterr()
    assert re.findall(r"^step (\d+)  evaluation", output.out, re.M) == ["10", "12"]
    assert output.err == f"error: the run has diverged: see {copy}/divergence.json\n"


def test_a_signal_ends_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(watch_module.time, "sleep", lambda _: signal.raise_signal(signal.SIGTERM))
    assert main(["eval", "--watch", f"--workdir={tmp_path / 'none'}"]) == 75
    output = capsys.readouterr()
    assert "waiting for a checkpoint" in output.out
    assert output.err == "SIGTERM: watched up to step 0\n"


def test_a_signal_ends_an_evaluation(workdir, monkeypatch):
    monkeypatch.setattr(watch_module, "_look", lambda _: (12, -2, False))
    evaluate = watch_module.evaluate_checkpoint

    def stopped_in(*arguments, interrupted, **options):
        assert not interrupted()
        signal.raise_signal(signal.SIGINT)
        assert evaluate(*arguments, interrupted=interrupted, **options) is None

    monkeypatch.setattr(watch_module, "evaluate_checkpoint", stopped_in)
    with pytest.raises(Stopped, match="SIGINT: watched up to step 0"):
        watch(workdir)


def test_a_damaged_checkpoint_is_an_error(workdir, monkeypatch):
    monkeypatch.setattr(watch_module, "_look", lambda _: (10, -2, False))
    (workdir / "checkpoints" / "10" / "model" / "manifest.ocdbt").unlink()
    with pytest.raises(UserError, match="damaged"):
        watch(workdir)


@pytest.mark.parametrize("steps", ["null", '"12"'])
def test_a_damaged_summary_is_an_error(steps, tmp_path):
    (tmp_path / "summary.json").write_text(f'{{"steps": {steps}}}')
    with pytest.raises(UserError, match=r"summary.json is damaged: steps must be"):
        watch(tmp_path)


def test_a_checkpoint_that_goes_while_it_is_evaluated_is_passed_over(workdir, monkeypatch, capsys):
    looks = iter([(10, -2, False), (12, -2, False), (12, 12, False), (12, 12, False)])
    monkeypatch.setattr(watch_module, "_look", lambda _: next(looks))
    evaluate = watch_module.evaluate_checkpoint

    def gone_at_10(workdir, which, *arguments, **more):
        if which == "10":
            raise UserError("there is no checkpoint of step 10")
        return evaluate(workdir, which, *arguments, **more)

    monkeypatch.setattr(watch_module, "evaluate_checkpoint", gone_at_10)
    watch(workdir)
    out = capsys.readouterr().out
    assert re.findall(r"^step (\d+)  evaluation", out, re.M) == ["12"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["train", "--config=x.py"], "--watch is for aggnets eval, not for aggnets train"),
        (["eval", "--checkpoint=best"], "leave --checkpoint out"),
    ],
)
def test_flags_that_do_not_go_with_it(flags, said, tmp_path, capsys):
    assert main([*flags, "--watch", f"--workdir={tmp_path}"]) == 2
    assert said in capsys.readouterr().err
