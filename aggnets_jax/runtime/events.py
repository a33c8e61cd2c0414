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


class EventFile(RecordWriter):
    """A new file of scalars in a folder; all methods raise `OSError` if it can't be written."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        super().__init__((folder / PATTERN.replace("*", name)).open("wb"))
        self._add(Event(file_version="brain.Event:2"))
        self.flush()

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        self.write(event.SerializeToString())

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
        self._add(Event(step=int(step), summary=Summary(value=values)))
