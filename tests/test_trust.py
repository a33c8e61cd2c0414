"""Files from elsewhere are data: they are used as such, or refused in one line.

No reader runs code, whatever a file holds, and none writes but where it is asked to.
"""

import ast
import contextlib
import io
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import strategies as st

import aggnets_jax
from aggnets_jax import config as config_lib
from aggnets_jax import data, models
from aggnets_jax.convert import read_state_dict
from aggnets_jax.main import main
from aggnets_jax.reports import results
from aggnets_jax.reports.run import report
from aggnets_jax.runtime.mesh import make_mesh, replicated
from aggnets_jax.training.optimizer import make_optimizer
from aggnets_jax.training.regularisation_schedules import make_strength
from aggnets_jax.workdir.folder import open_workdir
from aggnets_jax.workdir.restore import restore_network
from tests.foreign import (
    BYTES,
    CODE,
    DEEP,
    JSON,
    NAMES,
    RAN,
    REFUSED,
    TEXTS,
    changed,
    few_and_many,
    fields_of,
    fuzz,
    nothing_ran,  # noqa: F401
    result_of,
)
from tests.runs import DATASET

NETWORK = "sparsenet_bc16_k4"
GIVEN = {
    "model": {"name": NETWORK},
    "data": {"name": "aggnets_digits", "crop_padding": 1},
    "file": "configs/default.py",
}
CONFIG = config_lib.to_json(config_lib.resolve(GIVEN))
# Without the elements of lists, which are no fields.
FIELDS = [".".join(path) for path in fields_of(CONFIG) if all(isinstance(p, str) for p in path)]


def test_that_the_code_would_be_noticed():
    eval(CODE)
    assert RAN.exists()
    RAN.unlink()


# ---- Configs.


def make_everything(config):
    steps = result_of(config_lib.total_steps, config, DATASET.num_train)
    result_of(models.create_configured_model, config, DATASET.num_classes)
    result_of(make_optimizer, config, steps, DATASET.num_train / config.batch_size)
    result_of(make_strength, config, steps, DATASET.num_train / config.batch_size)
    result_of(data.make_preprocess, config.data, DATASET)
    result_of(data.make_mix, config.data)


def check_config(value):
    config = result_of(config_lib.resolve, value)
    if config is not REFUSED:
        as_json = config_lib.to_json(config)
        again = config_lib.to_json(config_lib.resolve(as_json))
        assert json.dumps(again) == json.dumps(as_json)  # as texts, for NaN is not NaN
        make_everything(config)
    return config


def test_a_config_that_nobody_changed_is_not_refused():
    assert check_config(CONFIG) is not REFUSED


@few_and_many(30, 2000)
def test_any_json_is_a_config_or_refused(examples):
    @fuzz(
        examples,
        st.dictionaries(st.sampled_from(list(CONFIG)) | NAMES | TEXTS, JSON, max_size=4),
        also=[{"lr": 10**400}, {"model": {"args": {"num_classes": 2}}}],
    )
    def _(value):
        check_config(value)


@pytest.mark.parametrize("field", ["lr", "lr_factors", "model", "schedule_args"])
def test_a_config_that_is_nested_too_deeply(field):
    deep = json.loads('{"x":' * 900 + "1" + "}" * 900)
    assert check_config({field: [deep] if field == "lr_factors" else deep}) is REFUSED
    assert check_config({"model": {"args": {"topology_args": deep}}}) is REFUSED


@few_and_many(60, 3000)
def test_a_config_in_which_anything_is_changed_is_a_config_or_refused(examples):
    resolved = []

    @fuzz(examples, changed(CONFIG))
    def _(value):
        resolved.append(check_config(value) is not REFUSED)

    assert any(resolved) and not all(resolved)


@few_and_many(30, 2000)
def test_the_command_line_holds_values_and_no_code(examples):
    default = str(config_lib.configs_folder() / "default.py")
    values = TEXTS | JSON.map(repr) | DEEP | st.sampled_from(["{[]: 1}", "-" * 5000 + "1", "("])

    @fuzz(examples, st.sampled_from(FIELDS), values)
    def _(field, text):
        config = result_of(config_lib.load, default, [f"{field}={text}"])
        if config is not REFUSED:
            make_everything(config)


# ---- Files of a workdir.

METRICS = {"accuracy": 0.5, "accuracy_top5": 0.9, "loss": 1.0}
SUMMARY = {
    "steps": 9,
    "final": {"step": 9, **METRICS},
    "best": {"step": 9, **METRICS},
    "images_per_second": 12.5,
    "network": {"name": NETWORK, "links": 1, "params": 2, "macs": 3},
    "devices": "1 x cpu",
    "hardware": "1 x cpu; EPYC",
    "commit": None,
    "versions": {"jax": "1"},
    "config_changes": [{"step": 3, "changes": ["lr: 0.1 -> 0.2"]}],
    "fingerprint": "f",
    "seeds": [{"seed": 0, "final": METRICS, "best": METRICS, "fingerprint": "f"}],
}
LINES = [{"step": 3, "train/loss": 2.0, "train/accuracy": 0.1}, {"step": 3, "eval/loss": 2.0}]
FILES = {
    "config.json": CONFIG,
    "summary.json": SUMMARY,
    "evaluation.json": {"step": 9, **METRICS},
    "metrics.jsonl": LINES,
}


def write_run(workdir, changes=()):
    """The files that a finished run leaves, some of them with other bytes."""
    workdir.mkdir(exist_ok=True)
    for name, value in FILES.items():
        values = value if name.endswith("l") else [value]
        text = "".join(json.dumps(each) + "\n" for each in values)
        (workdir / name).write_bytes(dict(changes).get(name, text.encode()))
    return workdir


@st.composite
def damaged_files(draw):
    """The name of a file of a run, and what it may hold instead."""
    name = draw(st.sampled_from(list(FILES)))
    if draw(st.booleans()):
        # Nothing is nested that deeply in a line of metrics.
        return name, draw(BYTES if name != "metrics.jsonl" else st.binary(max_size=30))
    value = draw(changed(FILES[name]))
    values = value if name.endswith("l") else [value]
    return name, "".join(json.dumps(each) + "\n" for each in values).encode()


@few_and_many(12, 500)
def test_reports_and_tables_of_any_files(examples, tmp_path):
    assert result_of(report, write_run(tmp_path / "whole")) is None
    assert main(["results", str(tmp_path / "whole"), f"--output={tmp_path}/whole/table"]) == 0

    @fuzz(examples, damaged_files())
    def _(change):
        workdir = write_run(tmp_path / "run", [change])
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            result_of(report, workdir)
            code = main(["results", str(workdir), f"--output={tmp_path}/table"])
        assert code in (0, 2)
        assert err.getvalue().count("\n") == (code == 2)
        assert (tmp_path / "table.csv").exists() == (tmp_path / "table.md").exists() == (code == 0)
        for written in tmp_path.glob("table.*"):
            written.unlink()
        assert {path.name for path in tmp_path.iterdir()} == {"whole", "run"}
        shutil.rmtree(workdir)


@few_and_many(30, 1000)
def test_a_run_does_not_go_on_with_any_config_and_leaves_it_as_it_is(examples, tmp_path):
    @fuzz(examples, BYTES | changed(CONFIG).map(lambda value: json.dumps(value).encode()))
    def _(content):
        (tmp_path / "config.json").write_bytes(content)

        def go_on():
            with open_workdir(tmp_path, CONFIG):
                return json.loads(content)

        held = result_of(go_on)
        if held is not REFUSED:
            assert config_lib.differences(held, CONFIG) == []
        assert (tmp_path / "config.json").read_bytes() == content
        assert {path.name for path in tmp_path.iterdir()} <= {"config.json", ".lock"}


def test_the_config_file_that_a_workdir_names_does_not_run(tmp_path):
    evil = tmp_path / "evil.py"
    evil.write_text(f"{CODE}\nraise SystemExit")
    ours = config_lib.configs_folder()
    up = "../" * len(ours.parts)
    for file in [
        evil,
        f"{evil}:row",
        f"configs/{up}{evil}",
        f"{ours}/{up}{evil}",
        f"{evil}:/../..{ours}/x",  # which ends in our folder, if the row is taken for a folder
    ]:
        config = json.dumps({**CONFIG, "file": str(file)}).encode()
        workdir = write_run(tmp_path / "run", {"config.json": config}.items())
        (found,) = results.read_run(workdir)
        assert found.record["config"] == "configs/default.py"
    report(workdir)


@pytest.mark.parametrize("path", ["~nobody_of_this_name_\udcff", "a\0b", "x" * 5000])
def test_paths_that_no_file_can_have(path, capsys):
    for call in (
        lambda: restore_network(path, "latest", replicated(make_mesh())),
        lambda: report(path),
        lambda: results.read_run(path),
        lambda: read_state_dict(f"{path}.safetensors"),
    ):
        assert result_of(call) is REFUSED


# ---- The source.

SOURCES = sorted(Path(aggnets_jax.__file__).parent.rglob("*.py"))
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "exec_module", "run_path", "run_module"),
    *("system", "popen", "execfile", "unpack_archive", "extractall", "unsafe_load", "full_load"),
}
# Of these a file runs that the user names on the command line, or that comes with the package.
ALLOWED = {("files.py", "compile"), ("files.py", "exec")}  # of config_fields


def name_of(function):
    return getattr(function, "attr", getattr(function, "id", None))


def dangers(source):
    """Return the calls of a program that may run what it reads."""
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        yield from (name for name in names if name.split(".")[0] in FORBIDDEN_MODULES)
        if not isinstance(node, ast.Call):
            continue
        called, owner = name_of(node.func), name_of(getattr(node.func, "value", None))
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        # Regular expressions and XLA's programs are compiled, too, by methods.
        if called in FORBIDDEN_CALLS and (called, type(node.func)) != ("compile", ast.Attribute):
            yield called
        if keywords.get("allow_pickle", "False") != "False" or keywords.get("shell") == "True":
            yield called
        if called == "load" and owner == "torch" and keywords.get("weights_only") != "True":
            yield "torch.load"
        if called == "load" and owner == "yaml":
            yield "yaml.load"


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from marshal import loads",
        "eval('1')",
        "builtins.exec(x)",
        "np.load(file, allow_pickle=True)",
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "yaml.load(file)",
        "subprocess.run(x, shell=True)",
        "spec.loader.exec_module(module)",
    ],
)
def test_that_dangers_are_found(source):
    assert len([*dangers(source)]) == 1


def test_what_is_no_danger():
    assert [*dangers("re.compile(x); ast.literal_eval(x); np.load(file)  # pickle, eval(x)")] == []


def test_no_source_runs_what_it_reads():
    found = {(file.name, danger) for file in SOURCES for danger in dangers(file.read_text())}
    assert found == ALLOWED
    assert len(SOURCES) > 50
