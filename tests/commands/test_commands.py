"""The list of subcommands, their --help, their examples, and one line for each mistake."""

import re
import shlex
import subprocess
import sys

import pytest

import aggnets_jax
from aggnets_jax import commands
from aggnets_jax.analysis import ANALYSES
from aggnets_jax.main import main
from tests import runs
from tests.test_imports import SLOW, slow_imports

DOCS = [runs.ROOT / "README.md", *sorted((runs.ROOT / "docs").glob("*.md"))]

# Words that each subcommand refuses before it does anything, and what it then says.
MISTAKES = {
    "train": ("--config=none.py --workdir=W", "no config file none.py"),
    "eval": ("--workdir=W --html", "--html is for aggnets report, not for aggnets eval"),
    "predict": ("--workdir=W", "the following arguments are required: --images"),
    "report": ("--workdir=W --htlm", "unknown flag '--htlm'; nearest: --html"),
    "analyse": ("weigths --workdir=W", "unknown analysis 'weigths'; nearest: weights"),
    "ablate": ("--workdir=W --draws=ten", "invalid int value: 'ten'"),
    "learn": ("--config=a.py --workdir=W --penalti=l1", "unknown flag '--penalti'; nearest: --pe"),
    "compare": ("W", "workdir W does not exist or is no directory"),
    "results": ("W --output=table.csv", "makes two files: give it without .csv"),
    "experiments": ("--format=xml", "unknown format 'xml'; allowed: csv, markdown, sizes, table"),
    "convert": ("--workdir=W", "needs one of --from_torch=FILE and --to_torch=FILE"),
    "export": ("--workdir=W --format=onxx --output=W", "unknown format 'onxx'; nearest: onnx"),
    "push": ("hf://USER/NAME --workdir=W", "there is no workdir"),
    "models": ("sparsnet_bc100_k24", "unknown model 'sparsnet_bc100_k24'; nearest: sparsenet_bc"),
    "dry-run": ("--config=none.py --devices=0", "devices must be a whole number of at least 1"),
    "benchmark": ("--models=densenet121 --modes=trian", "unknown mode 'trian'; nearest: train"),
    "prepare-data": ("--name=cifar11", "unknown data set 'cifar11'; nearest: cifar10"),
    "sweep": ("--config=none.py --workdir=W --config.lr=1", "runs come after --: -- --config.lr=1"),
    "completion": ("bahs", "unknown shell 'bahs'; nearest: bash"),
}


def examples(name):
    """Return the command lines in the docstring of a subcommand, without `aggnets NAME`."""
    found = re.findall(rf"^ +.*?aggnets {name}\b(.*?)[)\"]*$", commands.help_text(name), re.M)
    return [shlex.split(words) for words in found]


def test_the_list_has_a_line_for_each_subcommand(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == out
    for title, names in commands.GROUPS.items():
        assert f"\n{title}:\n" in out
        for name in names:
            assert f"\n  {name:<14}{commands.first_line(name)}\n" in out
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize("name", commands.NAMES)
def test_help_shows_each_flag_and_valid_examples(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: aggnets {name} ") and commands.help_text(name) in out
    assert examples(name)
    for words in examples(name):
        flags = commands.make_parser(name).parse(words)
        if words[0].startswith("--"):
            assert hasattr(flags, words[0].partition("=")[0].removeprefix("--"))


@pytest.mark.parametrize("name", [*ANALYSES, "efficiency", "dissect"])
def test_help_of_an_analysis_has_a_valid_example(name, capsys):
    with pytest.raises(SystemExit):
        main(["analyse", name, "--help"])
    example = capsys.readouterr().out.rpartition("Example:\n    aggnets analyse ")[2]
    flags = commands.make_parser("analyse").parse(example.split())
    assert flags.analysis == {"dissect": "dissection"}.get(name, name)


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{aggnets_jax.__version__}\n"


@pytest.mark.parametrize("flag", ["--lr", "--model.name"])
def test_a_field_without_config_before_it_is_said(flag, capsys):
    assert main(["train", "--config=a.py", "--workdir=a", f"{flag}=3"]) == 2
    field = flag.removeprefix("--")
    assert f"unknown flag '{flag}'; nearest: --config.{field}\n" in capsys.readouterr().err


def test_examples_are_checked():
    with pytest.raises(ValueError, match="unknown flag '--workdirs'; nearest: --workdir"):
        commands.make_parser("report").parse(["--workdir=a", "--workdirs=b"])


@pytest.mark.parametrize("file", DOCS, ids=lambda file: file.stem)
def test_commands_in_the_documentation_are_valid(file):
    text = file.read_text().replace("\\\n", " ").replace("analyse NAME", "analyse weights")
    for name, words in re.findall(r"^ {4,}aggnets ([a-z-]+)(.*)$", text, re.M):
        words = re.split(r" [#>|;] ?| && ", re.sub(r"[][]|\.\.\.", "", words))[0]
        commands.make_parser(name).parse(shlex.split(words))


def test_help_imports_nothing_slow():
    program = (
        "from aggnets_jax import commands; print([*map(commands.make_parser, commands.NAMES)])"
    )
    assert slow_imports("-c", program)[0] == set()
    for words in ([], ["train", "--help"], ["analyse", "--help"], ["completion", "bash"]):
        assert slow_imports("-m", "aggnets_jax", *words)[0] == set()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train --config=configs/digits.py --workdir=/dev/null/run", "a directory: '/dev/null'"),
        ("train --config=configs/digits.py --workdir=/proc/run", "'/proc/"),
        ("train --config=configs/digits.py --workdir=configs", "not empty and holds no run"),
        ("train --config=configs/digits.py --config.lr=high --workdir=a", "must be of type float"),
        ("learn --config=a.py --workdir=configs --penalty=l1 --strength=1", "holds no run"),
        ("convert --config=a.py --workdir=configs --from_torch=a.pth", "holds no run"),
        ("convert --workdir=none --to_torch=a.pth", "there is no workdir"),
        ("eval --workdir=none", "there is no workdir"),
        ("predict --workdir=none --images=a.png", "there is no workdir"),
        ("report --workdir=none", "there is no workdir"),
        ("ablate --workdir=none", "there is no workdir"),
    ],
)
def test_an_unusable_workdir_is_told_before_anything_slow_is_imported(words, message):
    command = [sys.executable, "-X", "importtime", "-m", "aggnets_jax", *words.split()]
    process = subprocess.run(command, cwd=runs.ROOT, capture_output=True, text=True)
    lines = process.stderr.splitlines()
    imported = {line.split("|")[-1].strip() for line in lines if line.startswith("import time:")}
    told = [line for line in lines if not line.startswith("import time:")]
    assert process.returncode == 2 and len(told) == 1 and message in told[0]
    assert "aggnets_jax" in imported and not imported & SLOW


@pytest.mark.parametrize("name", commands.NAMES)
def test_bad_input_is_one_line_and_exit_code_2(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words, message = MISTAKES[name]
    assert main([name, *words.split()]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err
    assert out == "" and not list(tmp_path.iterdir())


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_each_subcommand_and_its_flags(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for name in commands.NAMES:
        assert re.search(rf"\b{name}\b", script)
    for flag in ("allow_config_change", "reestimate_batch_statistics", "at_once"):
        assert flag in script
