"""The directory of a run: opening it for one process, and reading its summary."""

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from aggnets_jax import config as config_lib
from aggnets_jax.buckets import is_url, storage
from aggnets_jax.errors import UserError
from aggnets_jax.files import (
    AnyPath,
    PathLike,
    any_path,
    check_fields,
    explained,
    partial_of,
    read_json,
    remove_folder,
)
from aggnets_jax.runtime.interrupts import cleaning_up
from aggnets_jax.workdir.lease import LEASE, Lease

try:
    import fcntl
except ImportError:  # Windows, where nothing keeps two processes from one workdir
    fcntl = None

CONFIG = "config.json"
LOCK = ".lock"
SUMMARY = "summary.json"
EVALUATION = "evaluation.json"
LATEST, BEST = "checkpoints", "best"

_FILES_OF_RUNS = {
    *(CONFIG, SUMMARY, "divergence.json", "metrics.jsonl", "parameters.txt", "timing.jsonl"),
    "trackers.json",
}

# Fields that readers of a summary rely on.
METRICS = {"accuracy": float, "accuracy_top5": float, "loss": float}
# A run of a detector has no accuracy, but these and more.
DETECTION_METRICS = dict.fromkeys(("bbox_AP", "bbox_AP50", "bbox_AP75"), float)
# Nor has one with several labels for an image.
MULTILABEL_METRICS = dict.fromkeys(("mAP", "F1", "loss"), float)
_FIELDS_OF_SUMMARY = {
    "steps": int,
    "images_per_second": float,
    "network": {"name": str, "links": int, "params": int, "macs": int},
    "versions": dict,
    "hardware": str,
    "commit": str | None,
    "config_changes": [{"step": int, "changes": [str]}],
}


def check_new_or_same(
    workdir: PathLike,
    config: Mapping[str, Any] | None = None,
    *,
    allow_config_change: bool = False,
) -> None:
    """Check that a run can use a workdir, before anything slow is imported; leave nothing behind.

    The config is resolved, as JSON data; None if it is not known yet.

    Raises:
      UserError: as `open_workdir`.
    """
    path = any_path(workdir)
    if is_url(path):
        return
    with explained(f"workdir {workdir} can't be used"):
        there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
        if not os.access(there, os.W_OK | os.X_OK):
            number = errno.EROFS if _is_read_only(there) else errno.EACCES
            raise OSError(number, os.strerror(number), str(there))
        if not path.exists():
            with tempfile.TemporaryDirectory(prefix=".", dir=there):  # not in /proc, say
                pass
        _check_same_run(path, config, allow_config_change)


def _is_read_only(folder: Path) -> bool:
    """Return whether a folder's file system is mounted read-only; False if this is not known."""
    return hasattr(os, "statvfs") and bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def check_there(workdir: PathLike) -> None:
    """Check that there is a workdir, before anything slow is imported; raise `UserError` if not."""
    path = any_path(workdir)
    if not (is_url(path) or path.is_dir()):
        raise UserError(f"there is no workdir {path.absolute()}")


@contextlib.contextmanager
def open_workdir(
    workdir: PathLike, config: Mapping[str, Any], *, allow_config_change: bool = False
) -> Iterator[AnyPath]:
    """Make the directory of a new run, or check that it holds the run to resume.

    Within the context no other process can open it. If the context ends before anything is written
    to a new directory, the directory is removed. The config is resolved, as JSON data.

    Raises:
      UserError: if it can't be written, is in use, or does not hold a run of this config; it is
        then left as it was.
      OSError: if it is in a bucket that does not answer.
    """
    if workdir == "":
        raise UserError("workdir is empty")
    path = any_path(workdir)
    if is_url(path):
        _check_same_run(path, config, allow_config_change)
        with Lease(path) as lease:
            _remove_half_made(path)
            try:
                yield path
            finally:
                with contextlib.suppress(OSError), storage(path):
                    _remove_half_made(path)
                    lease.keep = (path / CONFIG).exists()
        return
    with explained(f"workdir {workdir} can't be used"):
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        _check_same_run(path, config, allow_config_change)
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / LOCK).open("a")
    with lock:
        try:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"workdir {path} is in use by another process") from error
        except OSError:  # some network file systems know no locks
            pass
        with cleaning_up(lambda: _remove_empty(path, missing)):
            _remove_half_made(path)
            _remove_half_written(path)
            yield path


def _remove_empty(path: AnyPath, made: Sequence[AnyPath]) -> None:
    """Remove the folders that were made for a run that has written nothing."""
    # The run must not end with the error of a storage that is gone.
    with contextlib.suppress(OSError):
        if _is_new(path):
            _remove_half_made(path)
            (path / LOCK).unlink(missing_ok=True)
            for folder in made:
                if not any(folder.iterdir()):
                    folder.rmdir()


def _is_new(path: AnyPath) -> bool:
    """Return whether nothing in a folder is of a run, but what one that was killed has left.

    A run without a config has come to nothing; a state of step 0, beside a lock or a lease, is of a
    conversion, which writes its config last.
    """
    own = {LOCK, LEASE}
    names = {file.name for file in path.iterdir()} if path.exists() else set()
    names = {name for name in names if partial_of(name) != CONFIG}
    if names - own != {LATEST}:
        return names <= own
    states = path / LATEST
    return (
        (LEASE if is_url(path) else LOCK) in names
        and (is_url(path) or (states.is_dir() and not states.is_symlink()))
        and all(re.match(r"0(\.orbax-checkpoint-tmp|$)", state.name) for state in states.iterdir())
    )


def _remove_half_made(path: AnyPath) -> None:
    if _is_new(path) and (path / LATEST).exists():
        remove_folder(path / LATEST)


def _remove_half_written(path: AnyPath) -> None:
    """Remove files that a killed run has not written to their ends; other commands may go on."""
    for file in path.iterdir():
        if partial_of(file.name) in _FILES_OF_RUNS:
            file.unlink(missing_ok=True)


def read_config(workdir: AnyPath) -> ml_collections.ConfigDict:
    """Read the config of a run; raise `UserError` if it is missing, damaged or no config."""
    try:
        return config_lib.resolve(read_json(workdir / CONFIG))
    except UserError as error:
        raise UserError(f"workdir {workdir}: {error}") from error


def read_summary(workdir: AnyPath) -> dict[str, Any]:
    """Read the summary of a finished run; raise `UserError` if it is missing or damaged.

    An older one gets the fields that it lacks.
    """
    if not (workdir / SUMMARY).exists():
        raise UserError(f"workdir {workdir} holds a run that is not finished: no {SUMMARY}")
    summary = read_json(workdir / SUMMARY)
    summary.setdefault("hardware", summary.get("devices"))
    summary.setdefault("config_changes", [])
    if not summary.get("seeds"):
        # It is from before several seeds could train together.
        seed = read_json(workdir / CONFIG).get("seed")
        summary["seeds"] = [{"seed": seed, **summary}]
    metrics = metrics_of(summary.get("final"))
    seed_fields = {"seed": int, "final": metrics, "best": metrics, "fingerprint": str}
    fields = {"final": {"step": int, **metrics}, **_FIELDS_OF_SUMMARY, "seeds": [seed_fields]}
    check_fields(workdir / SUMMARY, summary, fields)
    return summary


def metrics_of(evaluation: Any) -> dict[str, type]:
    """Return the fields that an evaluation must have, which depend on its task."""
    for metrics in (DETECTION_METRICS, MULTILABEL_METRICS):
        if isinstance(evaluation, dict) and next(iter(metrics)) in evaluation:
            return metrics
    return METRICS


def config_change_error(workdir: AnyPath, changes: Sequence[str]) -> UserError:
    """Make the error for resuming a run with another config."""
    return UserError(
        f"workdir {workdir} holds a run of another config ({'; '.join(changes)}); give another"
        " workdir, or --allow_config_change to go on with the changed config"
    )


def _check_same_run(
    path: AnyPath, config: Mapping[str, Any] | None, allow_config_change: bool
) -> None:
    if _is_new(path):
        return
    if not (path / CONFIG).exists():
        if (path / "checkpoints").exists():
            raise UserError(
                f"workdir {path} is not empty and holds no run: it has checkpoints but no"
                f" {CONFIG}; copy it there, too, or give an empty or new one"
            )
        raise UserError(f"workdir {path} is not empty and holds no run; give an empty or new one")
    if config is None:
        return
    changes = config_lib.differences(config_lib.to_json(read_config(path)), config)
    if changes and not allow_config_change:
        raise config_change_error(path, changes)
