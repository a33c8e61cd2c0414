"""Trackers: real ones, and ones that fail or hang."""

import json
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from aggnets_jax import config as config_lib
from aggnets_jax.workdir import trackers
from aggnets_jax.workdir.metric_log import MetricLog
from tests.buckets import free_port
from tests.patterns import one_line_error


def make_config(*names, **arguments):
    return config_lib.resolve({"trackers": names, "tracker_args": arguments, "lr": 0.25})


def log_in_two_starts(workdir, config):
    """Steps 1 and 2, then a kill after step 3; steps 3 and 4 after the restart."""
    workdir.mkdir(exist_ok=True)
    with MetricLog(workdir, {}, config) as log:
        for step in (1, 2):
            log.write(step, {"train/loss": step / 2})
        log.write(2, {"eval/accuracy": 0.5})
        lines = log.lines
        log.write(3, {"train/loss": 1.5})
    with MetricLog(workdir, lines, config) as log:
        for step in (3, 4):
            log.write(step, {"train/loss": step / 2})


class Recorder(trackers.Tracker):
    """A service that keeps what it is told."""

    title, package, service = "Recorder", "json", True
    calls: list

    def __init__(self, run, *, fails_at: str = "", until: object = None):
        self._fails_at, self._until = fails_at, until
        self._note("open", run.id)
        if run.id is None:
            run.remember("17")

    def _note(self, *call):
        self.calls.append(call)
        if call[0] == self._fails_at:
            raise KeyError("out of\norder")
        if self._until:
            self._until.wait()

    def write(self, step, scalars):
        self._note("write", step, scalars)

    def flush(self):
        self._note("flush")

    def close(self, finished):
        self._note("close", finished)


@pytest.fixture
def recorder(monkeypatch):
    monkeypatch.setattr(Recorder, "calls", [], raising=False)
    monkeypatch.setitem(trackers.TRACKERS, "recorder", Recorder)
    return Recorder


def written(recorder):
    return [call[1] for call in recorder.calls if call[0] == "write"]


def test_a_service_gets_each_line_and_its_own_id_again(recorder, tmp_path):
    log_in_two_starts(tmp_path, make_config("recorder"))
    opened = [call[1] for call in recorder.calls if call[0] == "open"]
    assert opened == [None, "17"]
    assert written(recorder) == [1, 2, 2, 3, 3, 4]
    assert json.loads((tmp_path / trackers.IDS).read_text()) == {"recorder": "17"}


def test_a_damaged_file_of_ids_is_a_warning_and_a_new_run(recorder, tmp_path, capsys):
    (tmp_path / trackers.IDS).write_text('{"recorder": [1]}')
    log_in_two_starts(tmp_path, make_config("recorder"))
    assert [call[1] for call in recorder.calls if call[0] == "open"] == [None, "17"]
    error = capsys.readouterr().err
    assert error.startswith("warning: ") and error.endswith("the trackers begin a new run\n")


def test_a_service_that_is_new_to_a_run_gets_its_earlier_lines(recorder, tmp_path):
    with MetricLog(tmp_path, {}, make_config()) as log:
        for step in (1, 2):
            log.write(step, {"train/loss": step / 2})
            log.write(step, {"images_per_second": 7.0}, "timing")
        lines = log.lines
    with MetricLog(tmp_path, lines, make_config("recorder")) as log:
        log.write(3, {"train/loss": 0.4})
    assert written(recorder) == [1, 1, 2, 2, 3]  # steps never decrease
    assert recorder.calls[1] == ("write", 1, {"train/loss": 0.5})


def test_a_run_that_stops_is_not_finished(recorder, tmp_path):
    with pytest.raises(KeyError), MetricLog(tmp_path, {}, make_config("recorder")):
        raise KeyError
    assert recorder.calls[-1] == ("close", False)


@pytest.mark.parametrize("place", ["open", "write", "flush", "close"])
def test_a_failing_tracker_is_left_and_the_others_go_on(place, recorder, tmp_path, capsys):
    config = make_config("recorder", "tensorboard", recorder={"fails_at": place})
    log_in_two_starts(tmp_path, config)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == [1, 2, 2, 3, 4]
    assert list((tmp_path / "tensorboard").iterdir())
    told = capsys.readouterr().err.splitlines()
    assert told == ["warning: nothing more goes to Recorder: 'out of\\norder'"] * 2


def test_a_service_that_hangs_does_not_stop_the_run(recorder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(trackers, "_PATIENCE_SECONDS", 0.1)
    until = threading.Event()
    try:
        monkeypatch.setattr(Recorder, "__init__", lambda self, run: until.wait() and None)
        with MetricLog(tmp_path, {}, make_config("recorder")) as log:
            log.write(1, {"train/loss": 0.5})
    finally:
        until.set()
    assert "Recorder: it has not taken all metrics in 0.1 s" in capsys.readouterr().err
    assert (tmp_path / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("names", "arguments", "message"),
    [
        (("wandbb",), {}, "unknown tracker in config.trackers 'wandbb'; nearest: wandb"),
        ((), {"comet": {}}, "unknown tracker in config.tracker_args 'comet'; allowed: clu"),
        (("mlflow",), {"mlflow": {"uri": "x"}}, "tracker 'mlflow' has no argument 'uri'"),
        (("clu",), {"clu": {"a": 1}}, "it has: none"),
        (({"a": 1},), {}, "unknown tracker in config.trackers \"{'a': 1}\""),
        ((), {"wandb": 3}, "config.tracker_args.wandb must be a mapping, got 3"),
        (("clu", "clu"), {}, "config.trackers has a tracker twice: clu, clu"),
        (("missing",), {}, "tracker 'missing' needs the package nowhere: pip install"),
    ],
)
def test_what_is_refused(names, arguments, message, monkeypatch):
    missing = type("Missing", (trackers.TensorBoard,), {"package": "nowhere"})
    monkeypatch.setitem(trackers.TRACKERS, "missing", missing)
    config = make_config(*names, **arguments)
    assert message in one_line_error(trackers.check_trackers, config)


@pytest.fixture(params=["file", "http"])
def mlflow_uri(request, tmp_path, monkeypatch):
    """Where MLflow keeps runs: a folder, or a server of it."""
    pytest.importorskip("mlflow")
    folder = f"file://{tmp_path / 'server'}"
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    if request.param == "file":
        yield folder
        return
    for package in ("flask", "alembic", "sqlalchemy"):
        pytest.importorskip(package)
    monkeypatch.setenv("_MLFLOW_SERVER_FILE_STORE", folder)
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", folder)
    port = free_port()
    command = [sys.executable, "-m", "flask", "--app", "mlflow.server:app", "run", f"--port={port}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            end = time.monotonic() + 300
            while not answers(f"http://127.0.0.1:{port}/health"):
                assert server.poll() is None and time.monotonic() < end
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.read() == b"OK"
    except OSError:
        return False


@pytest.mark.slow
def test_mlflow_goes_on_with_the_same_run(mlflow_uri, tmp_path):
    from mlflow.tracking import MlflowClient

    config = make_config("mlflow", mlflow={"tracking_uri": mlflow_uri, "experiment": "digits"})
    log_in_two_starts(tmp_path / "run", config)
    client = MlflowClient(mlflow_uri)
    experiment = client.get_experiment_by_name("digits")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "run"
    assert run.info.status == "FINISHED"
    assert run.data.params["lr"] == "0.25"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted({(each.step, each.value) for each in history}) == [
        (step, step / 2) for step in (1, 2, 3, 4)
    ]
    assert run.data.metrics["eval/accuracy"] == 0.5


@pytest.mark.slow
def test_mlflow_takes_means_and_seeds(mlflow_uri, tmp_path, capsys):
    """In its folder, a metric is a file and can't be the folder of others."""
    from mlflow.tracking import MlflowClient

    config = make_config("mlflow", mlflow={"tracking_uri": mlflow_uri, "experiment": "seeds"})
    with MetricLog(tmp_path, {}, config) as log:
        log.write(1, {"train/loss": 0.5, "train/loss/seed0": 0.25, "train/loss/seed1": 0.75})
    assert capsys.readouterr().err == ""
    client = MlflowClient(mlflow_uri)
    (run,) = client.search_runs([client.get_experiment_by_name("seeds").experiment_id])
    expected = {"train/loss": 0.5, "train/loss.seed0": 0.25, "train/loss.seed1": 0.75}
    assert run.data.metrics == expected


@pytest.mark.slow
def test_weights_and_biases_offline_go_on_with_the_same_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    config = make_config("wandb", wandb={"mode": "offline", "project": "digits"})
    log_in_two_starts(tmp_path / "run", config)
    own = json.loads((tmp_path / "run" / trackers.IDS).read_text())["wandb"]
    files = sorted((tmp_path / "run").glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2
    assert all(file.stem == f"run-{own}" for file in files)
    # Their own process writes them, on a busy machine a little later.
    end = time.monotonic() + 60
    while 4 not in offline_history(files[1]) and time.monotonic() < end:
        time.sleep(0.1)
    first, second = map(offline_history, files)
    assert first == {
        1: {"train/loss": 0.5},
        2: {"train/loss": 1.0, "eval/accuracy": 0.5},
        3: {"train/loss": 1.5},
    }
    assert second == {3: {"train/loss": 1.5}, 4: {"train/loss": 2.0}}


def offline_history(file: Path):
    """The logged values by step, from what `wandb sync` would send."""
    found = {}
    for record in offline_records(file.read_bytes()):
        if record.WhichOneof("record_type") == "history":
            items = {
                each.key or "/".join(each.nested_key): json.loads(each.value_json)
                for each in record.history.item
            }
            own = {name: value for name, value in items.items() if not name.startswith("_")}
            found.setdefault(items["_step"], {}).update(own)
    return found


def offline_records(content):
    """Yield the records of a log in LevelDB's format, behind a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    place, whole = 7, b""
    while place + 7 <= len(content):
        if (left := 2**15 - place % 2**15) < 7:  # the end of a block
            place += left
            continue
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        whole += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or its last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


@pytest.mark.slow
def test_clu_writes_summaries_anew_at_each_start(tmp_path):
    tf = pytest.importorskip("tensorflow")
    log_in_two_starts(tmp_path, make_config("clu"))
    points = [
        (value.tag, event.step)
        for file in sorted((tmp_path / "clu").iterdir())
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator()
        for event in [tf.compat.v1.Event.FromString(record)]
        for value in event.summary.value
    ]
    losses = [step for tag, step in points if tag == "train/loss"]
    assert losses == [1, 2, 3, 4]
    assert ("eval/accuracy", 2) in points
