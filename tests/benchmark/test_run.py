"""The command: its modes, its files, and what it refuses."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from aggnets_jax.benchmark import modes
from aggnets_jax.benchmark.program import Program
from aggnets_jax.benchmark.rows import COLUMNS, FIELDS, ORIGIN
from aggnets_jax.main import main

NETWORK = [
    "--models=sparsenet",
    "--model_args=depth=7,growth_rate=4",
    "--image_size=8",
    "--batch_size=4",
    "--seconds=0.05",
    "--repeats=3",
]
MODES = ("train", "eval", "ablation", "compile")

# What no machine with an accelerator need have.
_RUN = """
import sys
from aggnets_jax.main import main
code = main(["benchmark", *sys.argv[1:]])
print(sorted({"tensorflow", "tensorflow_datasets", "clu"} & sys.modules.keys()))
sys.exit(code)
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Rows as of JSON and of CSV, what was printed, and the arguments."""
    folder = tmp_path_factory.mktemp("benchmark")
    files = [f"--{kind}={folder / kind}" for kind in ("json", "csv")]
    arguments = [*NETWORK, f"--modes={','.join(MODES)}", *files]
    cache = folder / "cache"
    cache.mkdir()
    process = subprocess.run(
        [sys.executable, "-c", _RUN, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)},
    )
    assert not list(cache.iterdir())  # all was compiled
    with (folder / "csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    return json.loads((folder / "json").read_text()), lines, process.stdout, arguments


@pytest.mark.slow
def test_imports_no_tensorflow(measured):
    assert measured[2].splitlines()[-1] == "[]"


def test_json_has_a_row_for_each_mode_and_where_they_come_from(measured):
    record, _, _, arguments = measured
    assert record.keys() == {"hardware", "versions", "commit", "command", "rows"}
    assert all(argument in record["command"] for argument in arguments[:1])
    assert f"jax {jax.__version__}" in record["versions"]
    assert [row["mode"] for row in record["rows"]] == list(MODES)
    for row in record["rows"]:
        assert tuple(row) == FIELDS
        assert row["form"] == "default"
        assert row["batch"] == row["asked_batch"] == 4
        assert row["image"] == "8x8x3"


def test_times_and_what_is_computed_fit_together(measured):
    rows = {row["mode"]: row for row in measured[0]["rows"]}
    for mode in ("train", "eval", "ablation"):
        row = rows[mode]
        assert 0 < row["ms_low"] <= row["ms"] <= row["ms_high"]
        images = row["images_per_second"] * row["ms"] / 1e3
        masks = images / 4
        assert masks == pytest.approx(round(masks))
        assert round(masks) == 1 or mode == "ablation"
        passes = 3 if mode == "train" else 1
        done = 2 * passes * row["macs"] * row["images_per_second"]
        assert row["gflop_per_s"] == pytest.approx(done / 1e9)
        assert row["mfu"] == pytest.approx(row["gflop_per_s"] / row["matmul_gflop_per_s"])
        assert row["bandwidth"] == pytest.approx(row["gb_per_s"] / row["copy_gb_per_s"])
    assert rows["compile"]["images_per_second"] is None
    both = rows["compile"]["lower_s"] + rows["compile"]["compile_s"]
    assert 1e3 * both < rows["compile"]["ms_high"] * 1.5
    # The same program, whether it is run or not.
    for column in ("argument_mb", "output_mb", "alias_mb", "temp_mb", "xla_gflop"):
        assert rows["compile"][column] == rows["train"][column] is not None


def test_csv_has_the_same_rows(measured):
    record, lines, _, _ = measured
    assert [tuple(line) for line in lines] == [COLUMNS] * len(MODES)
    for line, row in zip(lines, record["rows"], strict=True):
        assert line["command"] == record["command"]
        assert float(line["ms"]) == pytest.approx(row["ms"], rel=1e-3)
        assert (line["images_per_second"] == "") == (row["images_per_second"] is None)


def _fake(calls, largest=10**9):
    """A mode whose programs do nothing, and need too much memory for large batches."""

    def build(setting):
        if setting.batch_size > largest:
            raise jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: Out of memory: {setting.form}")
        calls.append((setting.form.name, setting.batch_size))
        return Program(lambda steps: None, images=setting.batch_size, passes=0)

    return build


def test_forms_take_turns_on_the_same_batch(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setitem(modes.MODES, "eval", _fake(calls))
    file = tmp_path / "rows.json"
    forms = "--forms=plain,default,remat=layer"
    assert main(["benchmark", *NETWORK, "--modes=eval", forms, f"--json={file}"]) == 0
    rows = json.loads(file.read_text())["rows"]
    assert [row["form"] for row in rows] == ["plain", "default", "remat=layer"]
    assert [row["against"] for row in rows] == [None, *["sparsenet plain"] * 2]
    assert [row["ratio"] is None for row in rows] == [True, False, False]
    assert calls == [("plain", 4), ("default", 4), ("remat=layer", 4)]


def test_too_large_a_batch_is_halved_for_all_forms(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(modes.MODES, "eval", _fake([], largest=10))
    file = tmp_path / "rows.csv"
    arguments = [*NETWORK, "--modes=eval", "--forms=plain,default", "--batch_size=64"]
    assert main(["benchmark", *arguments, f"--csv={file}"]) == 0
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if "no memory for a batch" in line]
    assert [line.partition(", now")[0].split()[-1] for line in lines] == ["64", "32", "16"]
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [(row["asked_batch"], row["batch"]) for row in rows] == [("64", "8")] * 2
    assert "8 of 64" in printed


def test_another_network_is_compared_in_all_forms(monkeypatch, tmp_path):
    monkeypatch.setitem(modes.MODES, "eval", _fake([]))
    file = tmp_path / "rows.json"
    arguments = [*NETWORK, "--modes=eval", "--forms=plain,default", "--against=densenet"]
    assert main(["benchmark", *arguments, f"--json={file}"]) == 0
    rows = json.loads(file.read_text())["rows"]
    assert [(row["model"], row["form"]) for row in rows] == [
        (model, form) for model in ("sparsenet", "densenet") for form in ("plain", "default")
    ]


def test_other_errors_are_not_backed_off(monkeypatch, capsys):
    def build(setting):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setitem(modes.MODES, "eval", build)
    assert main(["benchmark", *NETWORK, "--modes=eval"]) == 1
    assert capsys.readouterr().err.endswith("JaxRuntimeError: INTERNAL: something else\n")


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--models=sparsenot40_k12"], "unknown model 'sparsenot40_k12'; nearest: sparsenet40_k"),
        (["--modes=trian"], "unknown mode 'trian'; nearest: train"),
        (["--forms=plane"], "unknown form 'plane'; nearest: plain"),
        (["--forms=plain,plain"], "a form comes twice"),
        (["--forms=remat=layers"], "remat"),
        (["--model_args=depth"], "must have the form NAME=VALUE"),
        (["--model_args=depht=7"], "sparsenet has no argument 'depht'; nearest: depth"),
        (["--dtype=float8"], "unknown dtype 'float8'"),
        (["--batch_size=0"], "batch_size must be a whole number of at least 1"),
        (["--image_size=-1"], "input_shape must be height, width and channels"),
        (["--image_size=1"], "images are too small for this network: its last map is 0x0"),
        (["--seconds=nan"], "seconds must be a number at least 0"),
        (["--against=torsh"], "unknown model 'torsh'"),
        (["--against_forms=eager"], "--against_forms needs --against=torch"),
        (["--against=tf.data"], "--against=tf.data is for the mode input, not eval"),
        (["--json=/nowhere/rows.json"], "/nowhere"),
        (["--json=/tmp", "--csv=/tmp/rows.csv"], "/tmp can't be written: it is a folder"),
        ([f"--profile={__file__}"], "must be a folder, and is a file"),
        (["--seconds=inf"], "seconds must be a number at least 0, and finite, got inf"),
        (["--batchsize=3"], "unknown flag '--batchsize'; nearest: --batch_size"),
    ],
)
def test_mistakes_are_one_line(flags, message, capsys, monkeypatch):
    monkeypatch.setitem(modes.MODES, "eval", _fake([]))
    assert main(["benchmark", *NETWORK, "--modes=eval", *flags]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1


def test_a_batch_that_the_devices_can_not_divide_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 3)
    monkeypatch.setitem(modes.MODES, "eval", _fake([]))
    assert main(["benchmark", *NETWORK, "--modes=eval"]) == 2
    error = capsys.readouterr().err
    assert error == "error: --batch_size 4 is not divisible by 3 devices; nearest: 3\n"


def test_every_column_is_explained():
    text = (Path(__file__).parents[2] / "docs" / "benchmark.md").read_text()
    assert [name for name in (*FIELDS, *ORIGIN) if f"`{name}`" not in text] == []
