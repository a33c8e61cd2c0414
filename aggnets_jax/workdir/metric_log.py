"""The log of a run: JSON lines, and trackers such as TensorBoard.

`metrics.jsonl` has a line for each step at which metrics were logged, with values that depend only
on config and step; `timing.jsonl` has the other values; trackers show both. Objects in a bucket
can't grow, so for a bucket the files are written on this machine and uploaded at each flush.
"""

import contextlib
import heapq
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import ml_collections
import numpy as np

from aggnets_jax.buckets import is_url
from aggnets_jax.config_fields.fields import flatten, plain
from aggnets_jax.errors import UserError
from aggnets_jax.files import AnyPath, read_text, upload_folder, write_text
from aggnets_jax.workdir.trackers import (
    TRACKERS,
    Guarded,
    Run,
    read_ids,
    remember_id,
    remove_events,
)


class JsonLines:
    """A growing file with one JSON object a line; no line is lost while the disk is full.

    It begins with lines that are kept. `number` is the number of lines so far.
    """

    def __init__(self, file: Path, kept: Sequence[Mapping[str, Any]]) -> None:
        write_text(file, "".join(map(_line, kept)))
        self.number = len(kept)
        # The lines that may not be on the disk yet, how much of them was written, and where.
        self._unsynced, self._written = bytearray(), 0
        self._file = os.open(file, os.O_WRONLY)
        self._end = os.fstat(self._file).st_size

    def append(self, values: Mapping[str, Any]) -> None:
        """Append a line; if it can't be written now, it is kept for later."""
        self._unsynced += _line(values).encode()
        self.number += 1
        with contextlib.suppress(OSError):
            self._write()

    def _write(self) -> None:
        # At a given position, so that half a line is overwritten by the whole one.
        while self._written < len(self._unsynced):
            with memoryview(self._unsynced)[self._written :] as rest:
                self._written += os.pwrite(self._file, rest, self._end + self._written)

    def flush(self) -> None:
        """Write all lines to the disk; raise `OSError` if that fails."""
        self._write()
        try:
            os.fsync(self._file)
        except OSError:
            self._written = 0  # the system may have dropped what it could not write, and told once
            raise
        self._end += self._written
        self._unsynced, self._written = bytearray(), 0

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def _line(values: Mapping[str, Any]) -> str:
    return json.dumps(values, allow_nan=False) + "\n"


def read_json_lines(file: AnyPath, number: int | None = None) -> list[dict[str, Any]]:
    """Read `number` lines of JSON, or all but a last one that a killed process left unfinished.

    Raises:
      UserError: if it can't be read, or a line is not a JSON object of a step and finite numbers.
    """
    if not file.exists():
        return []
    *texts, _ = read_text(file).split("\n")
    lines = []
    for place, text in enumerate(texts[:number], start=1):
        try:
            line = json.loads(text)
            if not (isinstance(line["step"], int) and all(map(math.isfinite, line.values()))):
                raise ValueError(line)
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            what = "a JSON object of a step and finite numbers"
            raise UserError(f"{file} is damaged: line {place} is not {what}") from error
        lines.append(line)
    return lines


def _first_lines(file: AnyPath, number: int) -> list[dict[str, Any]]:
    """Read the lines to keep; later ones are of a run that was killed."""
    lines = read_json_lines(file, number)
    if len(lines) < number:
        raise UserError(
            f"{file} is damaged: it has {len(lines)} lines, and had {number} when the checkpoint"
            " was saved; restore the file from a copy, or begin a new run from this one's weights"
            " (config.init_from)"
        )
    return lines


class MetricLog(contextlib.AbstractContextManager):
    """The writer of a run's metrics, in the one process that `writes`.

    `lines` is the number of lines to keep of each file: as many as it had at the checkpoint from
    which the run goes on, so that no line comes twice. Trackers that know nothing of an earlier
    start get the lines that are kept. `config` is the run's, with its trackers; None: TensorBoard.
    Nothing is written before the context begins.

    Raises:
      UserError: if a file is damaged, or has fewer lines than are to be kept.
    """

    def __init__(
        self,
        workdir: AnyPath,
        lines: Mapping[str, int],
        config: ml_collections.ConfigDict | None = None,
        *,
        writes: bool = True,
    ) -> None:
        self._workdir, self._folder, self._config, self._writes = workdir, workdir, config, writes
        self._kept = {
            name: _first_lines(workdir / f"{name}.jsonl", lines.get(name, 0))
            for name in ("metrics", "timing")
            if writes
        }
        self._files: dict[str, JsonLines] = {}
        self._trackers: list[Guarded] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if not self._writes:
            return self
        if is_url(self._workdir):
            folder = tempfile.TemporaryDirectory(prefix="aggnets_log_", ignore_cleanup_errors=True)
            self._folder = Path(self._stack.enter_context(folder))
        for name, kept in self._kept.items():
            self._files[name] = JsonLines(self._folder / f"{name}.jsonl", kept)
        for name in ("tensorboard", "clu"):  # in a bucket, besides this machine's
            remove_events(self._workdir / name)
        for name in ("tensorboard",) if self._config is None else self._config.trackers:
            self._trackers.append(self._open(name, self._config))
        return self

    def _open(self, name: str, config: ml_collections.ConfigDict | None) -> Guarded:
        """Open a tracker, and show it the lines that it does not have from an earlier start."""
        kind, own = TRACKERS[name], read_ids(self._workdir).get(name)
        arguments = config.tracker_args.get(name, {}) if config else {}
        run = Run(
            name=self._workdir.name,
            folder=None if kind.service and is_url(self._workdir) else self._folder,
            config=flatten(plain(config)) if config else {},
            id=own,
            remember=partial(remember_id, self._workdir, name),
        )
        tracker = Guarded(kind, partial(kind, run, **arguments))  # type: ignore[call-arg]
        kept = self._kept.values() if own is None else ()
        for line in heapq.merge(*kept, key=lambda line: line["step"]):
            _show([tracker], line)
        return tracker

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self.flush()
        for file in self._files.values():
            file.close()
        for tracker in self._trackers:
            tracker.close(kind is None)
        self._stack.close()

    def write(self, step: int, scalars: Mapping[str, float], file: str = "metrics") -> None:
        """Write values that depend only on config and step, or other values to "timing"."""
        if file in self._files:
            line = {"step": step, **{k: np.asarray(v).item() for k, v in scalars.items()}}
            self._files[file].append(line)
            _show(self._trackers, line)

    @property
    def lines(self) -> dict[str, int]:
        """Number of lines of each file."""
        return {name: file.number for name, file in self._files.items()}

    def flush(self) -> OSError | None:
        """Write everything to the disk; if that fails, return the error and keep the lines."""
        try:
            for file in self._files.values():
                file.flush()
            for tracker in self._trackers:
                tracker.call("flush")
            if self._folder != self._workdir:
                upload_folder(self._folder, self._workdir)
        except OSError as error:
            return error
        return None


def _show(trackers: Sequence[Guarded], line: Mapping[str, Any]) -> None:
    scalars = {name: value for name, value in line.items() if name != "step"}
    for tracker in trackers:
        tracker.call("write", line.get("step"), scalars)
