"""The command line: what it does, what it refuses, and how it says so."""

import contextlib
import io
import json

import jax
import pytest

from aggnets_jax import commands
from aggnets_jax.cli import Parser, exit_code
from aggnets_jax.main import main
from tests import runs


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
    """(config file, workdir) of a run: a process of its own trains it, and this one evaluates."""
    folder = tmp_path_factory.mktemp("main")
    file = runs.write_config(folder / "tiny.py", runs.tiny_config(data_dir, total_steps=6))
    code, out, err = runs.finish(runs.start(f"--config={file}", f"--workdir={folder / 'run'}"))
    assert (code, err) == (0, "")
    assert "2,618" in out and "ETA" in out and "images/s" in out
    with contextlib.redirect_stderr(io.StringIO()) as err:
        assert main(["eval", f"--workdir={folder / 'run'}"]) == 0
    assert err.getvalue() == ""
    return file, folder / "run"


def test_another_process_evaluates_to_the_last_digit(finished):
    _, workdir = finished
    assert json.loads((workdir / "evaluation.json").read_text()) == runs.summary(workdir)["final"]


def test_an_evaluation_takes_fields_that_change_no_result(finished, capsys):
    _, workdir = finished
    before = (workdir / "evaluation.json").read_text()
    fields = ("--config.eval_batch_size=16", "--config.data.resident=never")
    assert main(["eval", f"--workdir={workdir}", *fields]) == 0
    now = json.loads((workdir / "evaluation.json").read_text())
    assert now == pytest.approx(json.loads(before), rel=1e-5)
    (workdir / "evaluation.json").write_text(before)
    capsys.readouterr()
    for field, message in [
        ("lr=0.2", "an evaluation uses the run's config.lr; it may set data.data_dir, data.res"),
        ("eval_batch_size=0", "eval_batch_size must be at least 1"),
        ("eval_batch_sise=9", "nearest: eval_batch_size"),
        ("data.data_dir=/nowhere", "/nowhere"),
    ]:
        assert main(["eval", f"--workdir={workdir}", f"--config.{field}"]) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1
    assert (workdir / "evaluation.json").read_text() == before


def test_the_report_has_a_table_and_two_pictures(finished, capsys):
    _, workdir = finished
    assert main(["report", f"--workdir={workdir}"]) == 0
    out = capsys.readouterr().out
    for text in ("network", "links", "parameters", "MACs", "accuracy", "images/s", "2,618"):
        assert text in out
    for picture in ("topology.png", "curves.png"):
        assert str(workdir / picture) in out.replace("\n", "")
        assert (workdir / picture).read_bytes().startswith(b"\x89PNG")
    assert "has the same accuracy: " in out


def test_the_report_tells_when_the_restored_accuracy_differs(finished, capsys):
    _, workdir = finished
    file = workdir / "evaluation.json"
    right = file.read_text()
    file.write_text(json.dumps({**json.loads(right), "accuracy": 0.5}))
    assert main(["report", f"--workdir={workdir}"]) == 2
    assert "accuracy 0.5," in capsys.readouterr().err
    file.write_text(right)


@pytest.mark.slow
def test_overrides_reach_the_run(finished, tmp_path):
    file, _ = finished
    arguments = ["train", f"--config={file}", f"--workdir={tmp_path}", "--config.total_steps=1"]
    arguments += ["--config.model.topology", "windowed", "--config.model.topology_args.window=2"]
    assert main(arguments) == 0
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model"]["topology"] == "windowed"
    assert config["model"]["topology_args"] == {"window": 2}
    assert runs.summary(tmp_path)["steps"] == 1


DIGITS = ("train", "--config=configs/digits.py", "--workdir=W")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "--config, --workdir; see aggnets train --help"),
        (["train", "--config=configs/digits.py", "--workdir="], "--workdir is empty"),
        (["train", "--config=a.py", "--config=b.py", "--workdir=W"], "--config is given 2 times"),
        (["train", "--config=configs/digit.py", "--workdir=W"], "nearest in configs: digits.py"),
        ([*DIGITS, "--config.lrr=1"], "nearest: lr"),
        ([*DIGITS, "--config.init_from="], "error: config.init_from is empty"),
        ([*DIGITS, "--config.lr="], "error: config.lr is empty"),
        (
            [*DIGITS, "--config.lr", "high"],
            "type float",
        ),
        (
            [*DIGITS, "--config.lr"],
            "must have the form",
        ),
        (
            [*DIGITS, "--confg.lr=1"],
            "nearest: --config",
        ),
        ([*DIGITS, "now"], "unexpected 'now' (flags begin with --); see aggnets train --help"),
        ([*DIGITS, "--config.total_steps=5", "--config.total_epochs=2"], "set one of"),
        (["evl", "--workdir=W"], "unknown command 'evl'; nearest: eval; see aggnets --help"),
        (["eval", "--workdir=W"], "there is no workdir"),
        (["eval", "--workdir=W", "--config.lr=1"], "an evaluation uses the run's config.lr"),
        (["eval", "--workdir=W", "--config=a.py"], "takes the config of the workdir"),
        (["report", "--workdir=W"], "there is no workdir"),
        ([*DIGITS, "--data_dir=/nowhere"], "/nowhere"),
        (
            [*DIGITS, "--checkpoint=best"],
            "not for aggnets train",
        ),
        (["--workdir=W", "--mode=evl"], "unknown command 'evl'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(runs.ROOT)
    arguments = [a.replace("=W", f"={tmp_path / 'run'}") for a in arguments]
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("error: ") and err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["--workdir=W", "--config=a.py"], ["train", "--workdir=W", "--config=a.py"]),
        (["--mode=eval", "--workdir=W", "--watch"], ["eval", "--workdir=W", "--watch"]),
        (["--workdir=W", "--mode", "report", "--html"], ["report", "--workdir=W", "--html"]),
    ],
)
def test_command_lines_without_a_subcommand(old, new, monkeypatch):
    ran = []
    for name in ("train", "eval", "report"):
        command = commands.COMMANDS[name]._replace(
            run=ran.append, compiles=False, check=lambda flags: None
        )
        monkeypatch.setitem(commands.COMMANDS, name, command)
    assert main(old) == main(new) == 0
    assert ran[0] == ran[1]


@pytest.mark.parametrize("line", ["", "# mine\n"])
def test_files_of_flags_may_begin_with_a_mark(line, tmp_path):
    (tmp_path / "flags").write_text(f"\ufeff{line}--name=x\n--many=3\n")
    parser = Parser()
    parser.add_argument("--name")
    parser.add_argument("--many")
    assert vars(parser.parse([f"--flagfile={tmp_path / 'flags'}"])) == {"name": "x", "many": "3"}


def test_the_exit_code_of_bad_input_reaches_the_shell(tmp_path):
    process = runs.start("--config=configs/digits.py", f"--workdir={tmp_path}", "--config.lrr=1")
    assert runs.finish(process) == (2, "", "error: unknown config field 'lrr'; nearest: lr\n")


def test_a_platform_that_is_not_there_is_told_in_one_line(monkeypatch, capsys):
    def fail(*_):
        raise AssertionError  # JAX's own, for a platform without its plugin

    monkeypatch.setattr(jax, "devices", fail)
    assert exit_code(jax.devices) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: JAX can't use the devices of ") and err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["cuda", "gpuu"])
def test_a_command_without_its_platform_changes_nothing(platform, finished, tmp_path, monkeypatch):
    file, _ = finished
    monkeypatch.setenv("JAX_PLATFORMS", platform)
    code, _, err = runs.finish(runs.start(f"--config={file}", f"--workdir={tmp_path / 'run'}"))
    assert code == 2
    assert err.startswith(f"error: JAX can't use the devices of JAX_PLATFORMS={platform}: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_batch_that_devices_cannot_share_is_told_in_one_line(finished, tmp_path):
    file, _ = finished
    arguments = (f"--config={file}", f"--workdir={tmp_path / 'run'}", "--config.batch_size=36")
    code, _, err = runs.finish(runs.start(*arguments, devices=8))
    assert code == 2
    assert err == "error: config.batch_size 36 is not divisible by 8 devices; nearest: 32\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_divergence_has_its_own_exit_code(finished, tmp_path, capsys):
    file, _ = finished
    assert main(["train", f"--config={file}", f"--workdir={tmp_path}", "--config.lr=1e30"]) == 3
    assert "not finite at step" in capsys.readouterr().err


def test_a_missing_checkpoint_names_those_there_are(finished, capsys):
    _, workdir = finished
    assert main(["eval", f"--workdir={workdir}", "--checkpoint=3"]) == 2
    folders = [*(workdir / "checkpoints").iterdir(), *(workdir / "best").iterdir()]
    steps = sorted({int(folder.name) for folder in folders})
    assert {5, 6, runs.summary(workdir)["best"]["step"]} <= {*steps}
    assert f"allowed: latest, best, {', '.join(map(str, steps))}\n" in capsys.readouterr().err
