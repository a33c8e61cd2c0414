"""The log of a run: JSON lines and TensorBoard.

`metrics.jsonl` has a line for each step at which metrics were logged, with values that depend only
on config and step; `timing.jsonl` has the other values; TensorBoard shows both. Objects in a bucket
can't grow, so for a bucket the files are written on this machine and uploaded at each flush.
"""

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aggnets_jax.buckets import is_url
from aggnets_jax.errors import UserError, one_line
from aggnets_jax.files import AnyPath, read_text, upload_folder, write_text
from aggnets_jax.runtime.events import PATTERN, EventFile


class JsonLines:
    """A growing file with one JSON object a line; no line is lost while the disk is full.

    It begins with the first `keep` lines of another or the same one, which are `kept`; later ones
    are of a run that was killed. `number` is the number of lines so far.
    """

    def __init__(self, file: Path, before: AnyPath, keep: int) -> None:
        self.kept = read_json_lines(before, keep)
        if len(self.kept) < keep:
            raise UserError(
                f"{before} is damaged: it has {len(self.kept)} lines, and had {keep} when the"
                " checkpoint was saved"
            )
        write_text(file, "".join(map(_line, self.kept)))
        self.number = keep
        self._unwritten = b""
        self._file = os.open(file, os.O_WRONLY)
        self._end = os.fstat(self._file).st_size

    def append(self, values: Mapping[str, Any]) -> None:
        """Append a line; if it can't be written now, it is kept for later."""
        self._unwritten += _line(values).encode()
        self.number += 1
        with contextlib.suppress(OSError):
            self._write()

    def _write(self) -> None:
        # At a given position, so that half a line is overwritten by the whole one.
        while self._unwritten:
            written = os.pwrite(self._file, self._unwritten, self._end)
            self._unwritten = self._unwritten[written:]
            self._end += written

    def flush(self) -> None:
        """Write all lines to the disk; raise `OSError` if that fails."""
        self._write()
        os.fsync(self._file)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def _line(values: Mapping[str, Any]) -> str:
    return json.dumps(values, allow_nan=False) + "\n"


def read_json_lines(file: AnyPath, number: int | None = None) -> list[dict[str, Any]]:
    """Read `number` lines of JSON, or all but a last one that a killed process left unfinished.

    Raises:
      UserError: if it can't be read, or a line is not a JSON object.
    """
    if not file.exists():
        return []
    *texts, _ = read_text(file).split("\n")
    lines = []
    for place, text in enumerate(texts[:number], start=1):
        try:
            lines.append(dict(json.loads(text)))
        except (TypeError, ValueError, RecursionError) as error:
            raise UserError(f"{file} is damaged: line {place} is not a JSON object") from error
    return lines


class MetricLog(contextlib.AbstractContextManager):
    """The writer of a run's metrics, in the one process that `writes`.

    `lines` is the number of lines to keep of each file: as many as it had at the checkpoint from
    which the run goes on, so that no line comes twice. TensorBoard's files are rewritten.
    """

    def __init__(self, workdir: AnyPath, lines: Mapping[str, int], *, writes: bool = True) -> None:
        self._files: dict[str, JsonLines] = {}
        self._tensorboard: EventFile | None = None
        self._stack = contextlib.ExitStack()
        self._workdir, self._folder = workdir, workdir
        if not writes:
            return
        if is_url(workdir):
            folder = tempfile.TemporaryDirectory(prefix="aggnets_log_")
            self._folder = Path(self._stack.enter_context(folder))
        for name in ("metrics", "timing"):
            place = f"{name}.jsonl"
            self._files[name] = JsonLines(self._folder / place, workdir / place, lines.get(name, 0))
        for events in (workdir / "tensorboard").glob(PATTERN):
            events.unlink()
        try:
            self._tensorboard = EventFile(self._folder / "tensorboard")
        except OSError as error:
            self._without_tensorboard(error)
        for file in self._files.values():
            for line in file.kept:
                self._show(line)

    def __exit__(self, *exception: object) -> None:
        self.flush()
        for file in self._files.values():
            file.close()
        self._to_tensorboard("close")
        self._stack.close()

    def write(self, step: int, scalars: Mapping[str, float], file: str = "metrics") -> None:
        """Write values that depend only on config and step, or other values to "timing"."""
        if file in self._files:
            line = {"step": step, **{k: np.asarray(v).item() for k, v in scalars.items()}}
            self._files[file].append(line)
            self._show(line)

    def _show(self, line: Mapping[str, Any]) -> None:
        scalars = {name: value for name, value in line.items() if name != "step"}
        self._to_tensorboard("write_scalars", line.get("step"), scalars)

    def _to_tensorboard(self, method: str, *arguments: Any) -> None:
        try:
            if self._tensorboard is not None:
                getattr(self._tensorboard, method)(*arguments)
        except (OSError, TypeError, ValueError) as error:  # the disk, or a value that is no number
            self._without_tensorboard(error)

    def _without_tensorboard(self, error: Exception) -> None:
        # Nothing is lost: the other files have everything.
        if self._tensorboard is not None:
            with contextlib.suppress(OSError):
                self._tensorboard.close()
        self._tensorboard = None
        print(f"warning: nothing more goes to TensorBoard: {one_line(error)}", file=sys.stderr)

    @property
    def lines(self) -> dict[str, int]:
        """Number of lines of each file."""
        return {name: file.number for name, file in self._files.items()}

    def flush(self) -> OSError | None:
        """Write everything to the disk; if that fails, return the error and keep the lines."""
        try:
            for file in self._files.values():
                file.flush()
            self._to_tensorboard("flush")
            if self._folder != self._workdir:
                upload_folder(self._folder, self._workdir)
        except OSError as error:
            return error
        return None
