"""The log of a run: JSON lines and TensorBoard."""

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from clu import parameter_overview

from aggnets_jax.errors import UserError, one_line
from aggnets_jax.files import write_text
from aggnets_jax.runtime.events import PATTERN, EventFile


class JsonLines:
    """A file of one JSON object a line, which grows; none is lost while the disk is full.

    Args:
      file: to append to.
      keep: how many of its lines to keep; those after them are of a run that was killed.

    Attributes:
      kept: these lines.
      number: of lines so far.
    """

    def __init__(self, file: Path, keep: int) -> None:
        self.kept = read_json_lines(file, keep)
        if len(self.kept) < keep:
            raise UserError(
                f"{file} is damaged: it has {len(self.kept)} lines, and had {keep} when the"
                " checkpoint was saved from which the run goes on"
            )
        write_text(file, "".join(map(_line, self.kept)))
        self.number = keep
        self._unwritten = b""
        self._file = os.open(file, os.O_WRONLY)
        self._end = os.fstat(self._file).st_size

    def append(self, values: Mapping[str, Any]) -> None:
        """Appends a line; one that can't be written now is kept for later."""
        self._unwritten += _line(values).encode()
        self.number += 1
        with contextlib.suppress(OSError):
            self._write()

    def _write(self) -> None:
        # At a place of our own choice, so that half a line is overwritten by the whole one.
        while self._unwritten:
            written = os.pwrite(self._file, self._unwritten, self._end)
            self._unwritten = self._unwritten[written:]
            self._end += written

    def flush(self) -> None:
        """Makes sure that all lines are on the disk; raises `OSError` if that can't be."""
        self._write()
        os.fsync(self._file)

    def close(self) -> None:
        """Closes the file."""
        os.close(self._file)


def _line(values: Mapping[str, Any]) -> str:
    return json.dumps(values, allow_nan=False) + "\n"


def read_json_lines(file: Path, number: int | None = None) -> list[dict[str, Any]]:
    """The lines of a JSON-lines file; without the last if a killed process left it unfinished.

    Args:
      file: to read.
      number: of its first lines, to read no others.

    Raises:
      UserError: if it can't be read, or a line is not a JSON object.
    """
    if not file.exists():
        return []
    try:
        *texts, _ = file.read_text().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} can't be read: {one_line(error)}") from error
    lines = []
    for place, text in enumerate(texts[:number], start=1):
        try:
            lines.append(dict(json.loads(text)))
        except (TypeError, ValueError, RecursionError) as error:
            raise UserError(f"{file} is damaged: line {place} is not a JSON object") from error
    return lines


class MetricLog:
    """Writes the metrics of a run to its workdir.

    Args:
      workdir: of the run.
      lines: of each file, how many to keep: as many as it had at the checkpoint from which
        the run goes on; so a killed run leaves no line twice. TensorBoard's files are written anew.
      writes: whether this process is the one that does; in another, nothing happens.
    """

    def __init__(self, workdir: Path, lines: Mapping[str, int], *, writes: bool = True) -> None:
        self._files: dict[str, JsonLines] = {}
        self._tensorboard: EventFile | None = None
        if not writes:
            return
        for name in ("metrics", "timing"):
            self._files[name] = JsonLines(workdir / f"{name}.jsonl", lines.get(name, 0))
        for events in (workdir / "tensorboard").glob(PATTERN):
            events.unlink()
        try:
            self._tensorboard = EventFile(workdir / "tensorboard")
        except OSError as error:
            self._without_tensorboard(error)
        for file in self._files.values():
            for line in file.kept:
                self._show(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for file in self._files.values():
            with contextlib.suppress(OSError):
                file.flush()
            file.close()
        self._to_tensorboard("close")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes what follows from config and step."""
        self._write("metrics", step, metrics)

    def write_timing(self, step: int, timing: Mapping[str, float]) -> None:
        """Writes what depends on the machine."""
        self._write("timing", step, timing)

    def _write(self, name: str, step: int, scalars: Mapping[str, float]) -> None:
        if name in self._files:
            line = {"step": step, **{k: np.asarray(v).item() for k, v in scalars.items()}}
            self._files[name].append(line)
            self._show(line)

    def _show(self, line: Mapping[str, Any]) -> None:
        scalars = {name: value for name, value in line.items() if name != "step"}
        self._to_tensorboard("write_scalars", line.get("step"), scalars)

    def _to_tensorboard(self, method: str, *arguments: Any) -> None:
        try:
            if self._tensorboard is not None:
                getattr(self._tensorboard, method)(*arguments)
        except (OSError, TypeError, ValueError) as error:  # of the disk, or of what is no number
            self._without_tensorboard(error)

    def _without_tensorboard(self, error: Exception) -> None:
        # It shows what is in the other files, so nothing is lost.
        if self._tensorboard is not None:
            with contextlib.suppress(OSError):
                self._tensorboard.close()
        self._tensorboard = None
        print(f"warning: nothing more goes to TensorBoard: {one_line(error)}", file=sys.stderr)

    @property
    def lines(self) -> dict[str, int]:
        """How many each file has."""
        return {name: file.number for name, file in self._files.items()}

    def flush(self) -> OSError | None:
        """Makes sure that all is on the disk; returns why it can't be, and keeps the lines then."""
        try:
            for file in self._files.values():
                file.flush()
        except OSError as error:
            return error
        self._to_tensorboard("flush")
        return None


def parameter_table(params: Any) -> str:
    """Names, shapes and sizes of all parameters, as a table."""
    return parameter_overview.get_parameter_overview(params, include_stats=False)
