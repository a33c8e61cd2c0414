"""Orbax's managers of a series of checkpoints: one that reads, and one that saves."""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import absl.logging
import jax
import orbax.checkpoint as ocp

from aggnets_jax.files import AnyPath

JSON_ITEMS = ("config", "dataset", "progress")

# The writers that this process has opened; all processes open them in one order.
_OPENED = itertools.count()


def open_reader(series: AnyPath) -> ocp.CheckpointManager:
    """Open a series for reading; the manager waits for no other process."""
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(), active_processes={jax.process_index()}
    )
    return _open(series, read_only=True, multiprocessing_options=alone)


def open_writer(series: AnyPath, keep: int) -> ocp.CheckpointManager:
    """Open a series, whose folder is there, for saving; all processes must call this.

    The latest `keep` checkpoints are kept. The processes wait for each other by a name of this
    manager: what others wait for at that time, or a failed one left, can't come between.
    """
    processes = ocp.options.MultiprocessingOptions(
        active_processes=set(range(jax.process_count())),
        barrier_sync_key_prefix=f"writer-{next(_OPENED)}",
    )
    return _open(
        series,
        create=False,
        multiprocessing_options=processes,
        max_to_keep=keep,
        cleanup_tmp_directories=True,
        # Otherwise threads wait for a directory that can't be made, past the run's end.
        async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
    )


def _open(series: AnyPath, **options: Any) -> ocp.CheckpointManager:
    with _without_warnings():
        return ocp.CheckpointManager(
            series,
            options=ocp.CheckpointManagerOptions(
                # The metadata of a damaged checkpoint would be an error before any is read.
                lightweight_initialize=True,
                **options,
            ),
            item_names=("model", "training", *JSON_ITEMS, "checksums"),
        )


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Leave out Orbax's warnings that a manager which only reads will not write."""
    before = absl.logging.get_verbosity()
    absl.logging.set_verbosity(min(before, absl.logging.ERROR))
    try:
        yield
    finally:
        absl.logging.set_verbosity(before)
