"""Files that TensorBoard reads, written without TensorFlow, whose import takes seconds."""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT
from tensorboard.plugins.scalar.metadata import create_summary_metadata
from tensorboard.summary.writer.record_writer import RecordWriter

PATTERN = "events.out.tfevents.*"
"""Pattern of the file names that TensorBoard looks for."""


class EventFile:
    """A new file of scalars in a folder, which is made if need be.

    Args:
      folder: to write to.

    Raises:
      OSError: here and in each method, if it can't be written.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._records = RecordWriter((folder / PATTERN.replace("*", name)).open("wb"))
        self._write(Event(file_version="brain.Event:2"))
        self.flush()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Add scalars by their names."""
        values = [
            Summary.Value(
                tag=name,
                metadata=create_summary_metadata(display_name=None, description=None),
                tensor=TensorProto(dtype=DT_FLOAT, tensor_shape={}, float_val=[float(value)]),
            )
            for name, value in scalars.items()
        ]
        self._write(Event(step=int(step), summary=Summary(value=values)))

    def flush(self) -> None:
        """Hand all to the operating system."""
        self._records.flush()

    def close(self) -> None:
        """Close the file."""
        self._records.close()
