"""Everything clu: what a run writes about itself.

A workdir gets `metrics.jsonl`, one line for each step at which metrics were logged, with what
follows from config and step alone; `timing.jsonl`, with what does not; and both for TensorBoard.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from aggnets_jax.data.tf_runtime import import_tensorflow
from aggnets_jax.errors import UserError, one_line

import_tensorflow()  # quietly and without accelerators, before clu does it
from clu import metric_writers, parameter_overview  # noqa: E402


class JsonLinesWriter(metric_writers.LoggingWriter):
    """Appends scalars to a file, one JSON object a line; the rest goes to the log.

    Args:
      file: to append to.
      lines: how many of its lines to keep; those after them are of a run that was killed.

    Attributes:
      lines: how many there are.
    """

    def __init__(self, file: Path, lines: int) -> None:
        super().__init__()
        kept = read_json_lines(file)[:lines]
        if len(kept) < lines:
            raise UserError(
                f"{file} is damaged: it has {len(kept)} lines, and had {lines} when the newest"
                " checkpoint was saved"
            )
        partial = file.with_name(f".{file.name}.tmp")
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
        os.replace(partial, file)
        self.lines = len(kept)
        self._file = file.open("a")

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Appends a line with the step and the scalars."""
        values = {name: np.asarray(value).item() for name, value in scalars.items()}
        self._file.write(json.dumps({"step": step, **values}, allow_nan=False) + "\n")
        self.lines += 1

    def flush(self) -> None:
        """Makes sure that what was written is on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flushes and closes the file."""
        self.flush()
        self._file.close()


def read_json_lines(file: Path) -> list[dict[str, Any]]:
    """The lines of a JSON-lines file; without the last if a killed process left it unfinished.

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
    for number, text in enumerate(texts, start=1):
        try:
            lines.append(dict(json.loads(text)))
        except (TypeError, ValueError) as error:
            raise UserError(f"{file} is damaged: line {number} is not a JSON object") from error
    return lines


class MetricLog:
    """Writes the metrics of a run to its workdir.

    Args:
      workdir: of the run.
      lines: of each file, how many to keep, as `flush` returned them at the checkpoint from which
        the run goes on; so a killed run leaves no line twice.
    """

    def __init__(self, workdir: Path, lines: Mapping[str, int]) -> None:
        self._files = {
            name: JsonLinesWriter(workdir / f"{name}.jsonl", lines.get(name, 0))
            for name in ("metrics", "timing")
        }
        self._tensorboard = metric_writers.SummaryWriter(str(workdir / "tensorboard"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for writer in (*self._files.values(), self._tensorboard):
            writer.close()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes what follows from config and step."""
        self._write("metrics", step, metrics)

    def write_timing(self, step: int, timing: Mapping[str, float]) -> None:
        """Writes what depends on the machine."""
        self._write("timing", step, timing)

    def _write(self, name: str, step: int, scalars: Mapping[str, float]) -> None:
        for writer in (self._files[name], self._tensorboard):
            writer.write_scalars(step, scalars)

    def flush(self) -> dict[str, int]:
        """Makes sure that all is on the disk, and returns the number of lines of each file."""
        for writer in (*self._files.values(), self._tensorboard):
            writer.flush()
        return {name: writer.lines for name, writer in self._files.items()}


def parameter_table(params: Any) -> str:
    """Names, shapes and sizes of all parameters, as a table."""
    return parameter_overview.get_parameter_overview(params, include_stats=False)
