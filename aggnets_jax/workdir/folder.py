"""The directory of a run: opening it for one process, and reading its summary."""

import contextlib
import fcntl
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from aggnets_jax import config as config_lib
from aggnets_jax.errors import UserError
from aggnets_jax.files import _partial, check_fields, explained, local_path, read_json

CONFIG = "config.json"
LOCK = ".lock"
SUMMARY = "summary.json"

# Fields that readers of a summary rely on.
METRICS = {"accuracy": float, "accuracy_top5": float, "loss": float}
# A run of a detector has no accuracy, but these and more.
DETECTION_METRICS = dict.fromkeys(("bbox_AP", "bbox_AP50", "bbox_AP75"), float)
_FIELDS_OF_SUMMARY = {
    "steps": int,
    "images_per_second": float,
    "network": {"name": str, "links": int, "params": int, "macs": int},
    "versions": dict,
    "hardware": str,
    "commit": str | None,
    "config_changes": [{"step": int, "changes": [str]}],
}


@contextlib.contextmanager
def open_workdir(
    workdir: str | Path, config: Mapping[str, Any], *, allow_config_change: bool = False
) -> Iterator[Path]:
    """Make the directory of a new run, or check that it holds the run to go on with.

    Within the context no other process can open it. If the context ends before anything is written
    to a new directory, the directory is removed. It is local, because files are appended to and
    locked. The config is resolved, as JSON data.

    Raises:
      UserError: if it can't be written, is in use, or does not hold a run of this config; it is
        then left as it was.
    """
    if "://" in str(workdir):
        raise UserError(f"workdir {workdir} must be a local directory, or a mounted one")
    with explained(f"workdir {workdir} can't be used"):
        path = local_path(workdir)
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        _check_same_run(path, config, allow_config_change)
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / LOCK).open("a")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"workdir {path} is in use by another process") from error
        except OSError:  # some network file systems know no locks
            pass
        try:
            yield path
        finally:
            # The run must not end with the error of a storage that is gone.
            with contextlib.suppress(OSError):
                if not (path / CONFIG).exists():
                    (path / LOCK).unlink(missing_ok=True)
                    for folder in missing:
                        if not any(folder.iterdir()):
                            folder.rmdir()


def read_summary(workdir: Path) -> dict[str, Any]:
    """Read the summary of a finished run; raise `UserError` if it is missing or damaged.

    An older one gets the fields that it lacks.
    """
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
    detects = isinstance(evaluation, dict) and "bbox_AP" in evaluation
    return DETECTION_METRICS if detects else METRICS


def config_change_error(workdir: Path, changes: Sequence[str]) -> UserError:
    """Make the error for a run that would go on with another config."""
    return UserError(
        f"workdir {workdir} holds a run of another config ({'; '.join(changes)}); give another"
        " workdir, or --allow_config_change to go on with the changed one"
    )


def _check_same_run(path: Path, config: Mapping[str, Any], allow_config_change: bool) -> None:
    # Files of a process that was killed before it had written the config do not count.
    own = {LOCK, _partial(path / CONFIG).name}
    if not path.exists() or all(file.name in own for file in path.iterdir()):
        return
    if not (path / CONFIG).exists():
        raise UserError(f"workdir {path} is not empty and holds no run; give an empty or new one")
    changes = config_lib.differences(read_json(path / CONFIG), config)
    if changes and not allow_config_change:
        raise config_change_error(path, changes)
