"""Orbax's managers of a series of checkpoints: one that reads, and one that saves."""

import contextlib
import itertools
import sys
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
    name = f"writer-{next(_OPENED)}"
    processes = ocp.options.MultiprocessingOptions(
        active_processes=set(range(jax.process_count())), barrier_sync_key_prefix=name
    )
    return _open(
        series,
        create=False,
        multiprocessing_options=processes,
        max_to_keep=keep,
        cleanup_tmp_directories=True,
        async_options=ocp.AsyncOptions(
            # Otherwise threads wait for a directory that can't be made, past the run's end.
            create_directories_asynchronously=False,
            barrier_sync_fn=_SaveBarriers(name),
        ),
    )


class _SaveBarriers:
    """The waits of processes for each other in a save; it fails in all if it fails in one.

    Orbax's processes would wait 20 minutes for one that can't write its part. They wait twice in
    each save: until all have written, and until the first has given the checkpoint its name. Before
    and after it, however it ends, they set a value together.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._saves = 0
        self._left: list[str] = []

    def __call__(self, *, key: str, timeout_ms: int) -> None:
        if "set_value" not in key:
            self._wait_in_save(timeout_ms)
            return
        if self._left and sys.exception():
            # This process has failed, and the others wait for it.
            client = ocp.multihost.get_jax_distributed_client()
            client.key_value_set(f"{self._failure}/{jax.process_index()}", "")
            with contextlib.suppress(OSError):
                self._wait_in_save(timeout_ms)
        self._wait(key, timeout_ms)
        if key.endswith("set_value_end"):
            self._saves += 1
            self._left = ["written", "named"]

    @property
    def _failure(self) -> str:
        return f"{self._name}/failed/{self._saves}"

    def _wait_in_save(self, timeout_ms: int) -> None:
        self._wait(f"{self._name}/{self._saves}/{self._left.pop(0)}", timeout_ms)
        client = ocp.multihost.get_jax_distributed_client()
        if client.key_value_dir_get(self._failure):
            self._left = []
            raise OSError("in another process, which says why")

    @staticmethod
    def _wait(key: str, timeout_ms: int) -> None:
        processes = set(range(jax.process_count()))
        ocp.multihost.get_barrier_sync_fn(processes=processes)(key=key, timeout_ms=timeout_ms)


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
