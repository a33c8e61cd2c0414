"""Trackers: programs and services that show a run's metrics, beside the workdir's JSON lines.

`config.trackers` names the trackers of a run. A tracker that fails is dropped with a warning, and
the run goes on. Services are called in a thread, so that the run does not wait for them.
"""

import abc
import importlib.util
import queue
import re
import secrets
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import ml_collections

from aggnets_jax.arguments import check_arguments
from aggnets_jax.config_fields.fields import plain
from aggnets_jax.errors import UserError, one_line, unknown
from aggnets_jax.files import AnyPath, check_fields, read_json, write_json
from aggnets_jax.runtime.events import PATTERN, EventFile

# Time for which a run that ends waits until a service has taken its last metrics.
_PATIENCE_SECONDS = 60


class Run(NamedTuple):
    """The run that a tracker shows.

    Attributes:
      name: name of the workdir.
      folder: folder for a tracker's files. None: the default of a service; for workdirs in a
        bucket, to which the files of services are not uploaded.
      config: fields of the config by their dotted names.
      id: the run's id at a service, from an earlier start; None: there is none.
      remember: stores the id of a new run.
    """

    name: str
    folder: Path | None
    config: Mapping[str, Any]
    id: str | None
    remember: Callable[[str], None]


class Tracker(abc.ABC):
    """The interface of trackers; all methods may raise any error.

    The constructor of a subclass gets the `Run` and keyword arguments, `config.tracker_args`.

    Attributes:
      title: name in messages.
      package: name of the package that it needs.
      service: whether its methods may wait for a network. A service keeps the metrics of earlier
        starts; other trackers are written anew.
    """

    title: ClassVar[str]
    package: ClassVar[str]
    service: ClassVar[bool] = False

    @abc.abstractmethod
    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Show scalars of a step; steps never decrease, and a step may come several times."""

    @abc.abstractmethod
    def flush(self) -> None:
        """Write all scalars so far."""

    @abc.abstractmethod
    def close(self, finished: bool) -> None:
        """End, for now or because the run is finished."""


class TensorBoard(Tracker):
    """TensorBoard's files in `workdir/tensorboard`, which are written anew at each start."""

    title, package = "TensorBoard", "tensorboard"

    def __init__(self, run: Run) -> None:
        folder = run.folder / "tensorboard"
        remove_events(folder)
        self._file = EventFile(folder)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Add scalars to the file."""
        self._file.write_scalars(step, scalars)

    def flush(self) -> None:
        """Write the file to the disk."""
        self._file.flush()

    def close(self, finished: bool) -> None:
        """Close the file."""
        self._file.close()


class Clu(Tracker):
    """CLU's default writers: TensorFlow's summaries, and the Python log.

    The summaries are in `workdir/clu`, and written anew at each start.
    """

    title, package = "CLU", "clu"

    def __init__(self, run: Run) -> None:
        from clu import metric_writers

        folder = run.folder / "clu"
        remove_events(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = metric_writers.create_default_writer(folder, asynchronous=False)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Hand scalars to the writers."""
        self._writer.write_scalars(step, scalars)

    def flush(self) -> None:
        """Flush the writers."""
        self._writer.flush()

    def close(self, finished: bool) -> None:
        """Close the writers."""
        self._writer.close()


def remove_events(folder: AnyPath) -> None:
    """Remove the files for TensorBoard of an earlier start."""
    for events in folder.glob(PATTERN):
        events.unlink()


class WeightsAndBiases(Tracker):
    """Weights & Biases; offline with `mode="offline"` or WANDB_MODE=offline."""

    title, package, service = "Weights & Biases", "wandb", True

    def __init__(
        self,
        run: Run,
        *,
        project: str = "aggnets",
        entity: str | None = None,
        group: str | None = None,
        mode: str | None = None,
    ) -> None:
        import wandb

        own = run.id or secrets.token_hex(4)
        self._run = wandb.init(
            project=project,
            entity=entity,
            group=group,
            name=run.name,
            id=own,
            resume="allow",
            mode=mode,
            config=dict(run.config),
            dir=run.folder and str(run.folder),
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True),
        )
        if run.id is None:
            run.remember(own)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Log scalars; the service leaves out steps that it has from before."""
        self._run.log(dict(scalars), step=step)

    def flush(self) -> None:
        """Do nothing: the package sends scalars by itself."""

    def close(self, finished: bool) -> None:
        """Send what is left."""
        self._run.finish(exit_code=0 if finished else 1)


class MLflow(Tracker):
    """MLflow, at `tracking_uri` or MLFLOW_TRACKING_URI."""

    title, package, service = "MLflow", "mlflow", True

    def __init__(
        self, run: Run, *, tracking_uri: str | None = None, experiment: str = "aggnets"
    ) -> None:
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri)
        self._id = run.id
        if run.id is not None:
            self._client.update_run(run.id, status="RUNNING")
            return
        found = self._client.get_experiment_by_name(experiment)
        place = found.experiment_id if found else self._client.create_experiment(experiment)
        self._id = self._client.create_run(place, run_name=run.name).info.run_id
        run.remember(self._id)
        for name, value in run.config.items():
            self._client.log_param(self._id, name, str(value)[:500])

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Log scalars of a step in one call."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        # Where MLflow writes files, a name can't be a folder, too: "loss" and "loss/seed0".
        metrics = [
            Metric(re.sub(r"/(seed\d+)$", r".\1", name), float(value), now, step)
            for name, value in scalars.items()
        ]
        self._client.log_batch(self._id, metrics)

    def flush(self) -> None:
        """Do nothing: each call waits for the server."""

    def close(self, finished: bool) -> None:
        """Report that the run is finished, or has stopped."""
        self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")


TRACKERS: dict[str, type[Tracker]] = {
    "tensorboard": TensorBoard,
    "clu": Clu,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


IDS = "trackers.json"
"""File of a workdir with the run's id at each tracker."""

_ids_change = threading.Lock()


def read_ids(workdir: AnyPath) -> dict[str, str]:
    """Return the ids that a workdir's run has at its trackers; warn of a file that is damaged."""
    if not (workdir / IDS).exists():
        return {}
    try:
        ids = read_json(workdir / IDS)
        check_fields(workdir / IDS, ids, dict)
    except UserError as error:
        print(f"warning: {error}; the trackers begin a new run", file=sys.stderr, flush=True)
        return {}
    return ids


def remember_id(workdir: AnyPath, name: str, own: str) -> None:
    """Store a run's id at a tracker."""
    with _ids_change:
        write_json(workdir / IDS, {**read_ids(workdir), name: own})


def check_trackers(config: ml_collections.ConfigDict) -> None:
    """Raise `UserError` for an unknown tracker, a wrong argument, and a package that is missing."""
    given = plain(config.tracker_args)
    for field, names in (("trackers", config.trackers), ("tracker_args", given)):
        for name in names:
            if not isinstance(name, str) or name not in TRACKERS:
                raise unknown(f"tracker in config.{field}", str(name), TRACKERS)
    if len({*config.trackers}) < len(config.trackers):
        raise UserError(f"config.trackers has a tracker twice: {', '.join(config.trackers)}")
    for name, arguments in given.items():
        if not isinstance(arguments, dict):
            raise UserError(f"config.tracker_args.{name} must be a mapping, got {arguments!r}")
        check_arguments(f"tracker {name!r}", TRACKERS[name], arguments)
    for name in config.trackers:
        package = TRACKERS[name].package
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"tracker {name!r} needs the package {package}: pip install 'aggnets-jax[trackers]'"
            )


class Guarded:
    """A tracker whose errors end it, with one warning, and not the run.

    `make` is called at once, or for a service in its thread.
    """

    def __init__(self, kind: type[Tracker], make: Callable[[], Tracker]) -> None:
        self._title, self._make = kind.title, make
        self._tracker: Tracker | None = None
        self._calls: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        self._ended = False
        self._thread: threading.Thread | None = None
        if kind.service:
            # It must not keep a process alive.
            self._thread = threading.Thread(target=self._work, name=kind.title, daemon=True)
            self._thread.start()
        else:
            self._do("open")

    def call(self, method: str, *arguments: Any) -> None:
        """Call a method now, or in the thread after the calls before it."""
        if self._thread is None:
            self._do(method, *arguments)
        else:
            self._calls.put((method, *arguments))

    def close(self, finished: bool) -> None:
        """Close the tracker; wait for a service, not long if the run has not finished."""
        self.call("close", finished)
        if self._thread is None:
            return
        self._calls.put(None)
        # Schedulers kill a run 15 to 30 s after they have asked it to stop.
        patience = _PATIENCE_SECONDS if finished else min(_PATIENCE_SECONDS, 5)
        self._thread.join(patience)
        if self._thread.is_alive():
            self._warn(f"it has not taken all metrics in {patience} s")

    def _work(self) -> None:
        self._do("open")
        while (call := self._calls.get()) is not None:
            self._do(*call)

    def _do(self, method: str, *arguments: Any) -> None:
        if self._ended:
            return
        try:
            if method == "open":
                self._tracker = self._make()
            else:
                getattr(self._tracker, method)(*arguments)
        except Exception as error:  # services raise any
            self._warn(error)

    def _warn(self, error: object) -> None:
        # Nothing is lost: the JSON lines have everything.
        self._ended = True
        message = f"warning: nothing more goes to {self._title}: {one_line(error)}"
        print(message, file=sys.stderr, flush=True)
