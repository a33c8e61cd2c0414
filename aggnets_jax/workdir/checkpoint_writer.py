"""Saving the checkpoints of a run with Orbax, and resuming from them."""

import contextlib
import dataclasses
import itertools
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from aggnets_jax import config as config_lib
from aggnets_jax.buckets import is_url
from aggnets_jax.connectivity.scan_variables import match_layout
from aggnets_jax.data import DatasetInfo
from aggnets_jax.errors import Damaged, Gone, OtherArrays, Unsaved, UserError, one_line
from aggnets_jax.files import PathLike, has_folder, make_folder, move_folder
from aggnets_jax.runtime.distributed import (
    error_in_any,
    is_first,
    of_first_process,
    on_first_process,
)
from aggnets_jax.training.state import TrainState, at_seed, over_seeds
from aggnets_jax.workdir.checkpoints import Checkpoints, array_checksums, json_checksum
from aggnets_jax.workdir.folder import BEST, LATEST, config_change_error
from aggnets_jax.workdir.managers import JSON_ITEMS, open_writer
from aggnets_jax.workdir.mirror import delete_checkpoint
from aggnets_jax.workdir.progress import Progress

DAMAGED = "damaged"


class RunCheckpoints(Checkpoints):
    """The checkpoints of a run. Saves are asynchronous; leaving the context waits for them.

    A save that fails, because a disk is full or gone, is reported on stderr. The checkpoints before
    it stay as they are, and the next save tries again. The latest `keep` checkpoints are kept; each
    has the config, as JSON data, and the data set.
    """

    def __init__(
        self, workdir: PathLike, *, keep: int, config: Mapping[str, Any], dataset: DatasetInfo
    ) -> None:
        super().__init__(workdir)
        if self._mirror and jax.process_count() > 1:
            raise UserError(
                f"workdir {workdir}: several processes can't write checkpoints to s3://; give a"
                " bucket in gs://, or a disk that they share"
            )
        self._config = config
        self._dataset = dataset
        # Two of the best, because a run may go on from before the newer one.
        self._keep = {LATEST: keep, BEST: 2}
        # The managers that save, by folder.
        self._writers: dict[str, ocp.CheckpointManager] = {}
        # The step of the newest save, and its error if it failed, by folder.
        self._begun: dict[str, int] = {}
        self._failures: dict[str, str] = {}
        # How to wait for it, by folder; and the thread that uploads it.
        self._pending: dict[str, Callable[[], Any]] = {}
        self._thread = ThreadPoolExecutor(1)
        # Whether a whole state of this run is known to be there.
        self._resumable = False
        # Names, dtypes and shapes of the newest state that is saved, by item.
        self._saved: dict[str, Any] = {}

    def __exit__(self, *exception: object) -> None:
        for folder in (BEST, LATEST):
            if error := self._wait(folder):
                self.note_failure(error, self._begun[folder], folder)
        self._thread.shutdown()
        super().__exit__(*exception)

    def _writer(self, folder: str) -> ocp.CheckpointManager:
        if folder not in self._writers:
            self._writers[folder] = open_writer(self._series(folder), self._keep[folder])
        return self._writers[folder]

    def _forget(self, folder: str) -> None:
        super()._forget(folder)
        if writer := self._writers.pop(folder, None):
            with contextlib.suppress(Exception):  # a failed save's, once more
                writer.close()

    # ---- Saving.

    def save(self, state: TrainState, progress: Progress) -> None:
        """Begin to save the whole state; do nothing if that step is saved already.

        The network that `progress` names as the best is on the disk before; if it could not be
        saved, `progress` is changed to name the one that is.
        """
        self._settle(LATEST)
        if not self._settle(BEST):
            # It may be the storage that is gone.
            named = _error_of(partial(self._name_saved_best, progress))
            if error := error_in_any(named):
                self.note_failure(error, state.updates)
                return
        model, training = _split(state)
        arrays = {"model": model, "training": training}
        self._saved = jax.tree.map(_on_host, arrays)
        self._begin(LATEST, state.updates, progress, arrays)

    def save_best(self, state: TrainState, progress: Progress) -> None:
        """Begin to save the network of the best evaluation so far.

        It waits for the first state of the run: a network says, by the lines of its progress, that
        there is one. If that could not be saved, it does not.
        """
        self._settle(BEST)
        if not self._resumable:
            self._settle(LATEST)
        if not self._resumable:
            progress = dataclasses.replace(progress, lines={})
        self._begin(BEST, state.updates, progress, {"model": _split(state)[0]})

    def finish(self) -> None:
        """Wait until everything is saved; raise `Unsaved` if the last state can't be read back."""
        self._settle(BEST)
        saved = self._settle(LATEST) and self._saved
        # By one process: thousands would read the whole state from one storage.
        if saved and (error := error_in_any(_error_of(self._read_back) if is_first() else None)):
            self.note_failure(error, self._begun[LATEST])
        if LATEST in self._failures:
            steps: list[int] = []
            with contextlib.suppress(Exception):  # of a storage that is gone
                steps = [step for step in self._steps(LATEST) if step != self._begun[LATEST]]
            raise Unsaved(
                f"{self._failures[LATEST]}; the same command goes on"
                + (f" from step {steps[-1]}" if steps else "")
            )

    def _read_back(self) -> None:
        """Read the newest state as another process would; raise `UserError` if that fails."""
        with Checkpoints(self._workdir, alone=True) as reader:
            reader._read(LATEST, self._begun[LATEST], *JSON_ITEMS, **self._saved)

    def _begin(self, folder: str, step: int, progress: Progress, arrays: Mapping[str, Any]) -> None:
        self._failures.pop(folder, None)
        self._begun[folder] = step
        data = {
            "config": dict(self._config),
            "dataset": dataclasses.asdict(self._dataset),
            "progress": dataclasses.asdict(progress),
        }
        checksums = {
            **{item: array_checksums(tree) for item, tree in arrays.items()},
            **{item: json_checksum(value) for item, value in data.items()},
        }
        items = {item: ocp.args.StandardSave(tree) for item, tree in arrays.items()}
        for item, value in {**data, "checksums": checksums}.items():
            items[item] = ocp.args.JsonSave(value)

        def save() -> None:
            manager = self._writer(folder)
            self._pending[folder] = manager.wait_until_finished
            if step not in manager.all_steps():
                manager.save(step, args=ocp.args.Composite(**items))
                if self._mirror:
                    upload = self._thread.submit(self._upload, folder, manager)
                    self._pending[folder] = upload.result

        # Orbax's processes would wait for the first if it could not make a folder.
        for action in (partial(self._try_series, folder), save):
            if error := error_in_any(_error_of(action)):
                self.note_failure(error, step, folder)
                return

    def _try_series(self, folder: str) -> None:
        """Make the folder of a series, and for a moment one in it, in the first process."""
        series = self._series(folder)
        if is_first() and not is_url(series):
            make_folder(series)
            with tempfile.TemporaryDirectory(dir=series, prefix="."):
                pass

    def _upload(self, folder: str, manager: ocp.CheckpointManager) -> None:
        manager.wait_until_finished()
        self._mirror.send(folder)

    def _wait(self, folder: str) -> Exception | None:
        """Wait for the newest save; return its error, if any."""
        return _error_of(self._pending.pop(folder, lambda: None))

    def _settle(self, folder: str) -> bool:
        """Wait for the newest save; return whether it succeeded."""
        if error := error_in_any(self._wait(folder)):
            self.note_failure(error, self._begun[folder], folder)
        saved = folder not in self._failures
        self._resumable |= saved and folder == LATEST and folder in self._begun
        return saved

    def note_failure(self, error: Exception, step: int, folder: str = LATEST) -> None:
        """Note why the state after a step could not be saved; all processes must call this."""
        what = "best network" if folder == BEST else "state"
        reason = one_line(error)
        self._begun[folder] = step
        self._failures[folder] = f"the {what} after step {step} could not be saved: {reason}"
        self._warn(self._failures[folder])
        self._pending.pop(folder, None)
        self._forget(folder)

    def _name_saved_best(self, progress: Progress) -> None:
        steps = of_first_process(partial(self._steps, BEST))
        try:
            saved = steps and self._read(BEST, steps[-1], "progress")["progress"]["best"]
        except (Damaged, Gone) as error:
            self._warn(str(error))
            saved = None
        progress.best = saved or None

    # ---- Restoring.

    def restore(
        self,
        state: TrainState,
        *,
        allow_config_change: bool = False,
        other_form: Callable[[], TrainState] | None = None,
    ) -> tuple[TrainState, Progress] | None:
        """Restore the newest checkpoint that is whole, and set damaged ones aside.

        The given state has the shapes, dtypes and shardings of the restored one, and its seed.
        `other_form` makes the shapes of the state for the other value of `config.model.scan`.
        Returns the state and its progress; None if there is no checkpoint.

        Raises:
          UserError: if no checkpoint is whole, or it is of another run; none is set aside then.
        """
        damaged: list[Damaged] = []
        # The processes may see different lists of what another machine has written.
        for step in reversed(of_first_process(partial(self._steps, LATEST))):
            try:
                changes = self._changes(step, allow_config_change)
                before = config_lib.resolve(self.restore_config(LATEST, step))
                other = other_form and before.model.scan != self._config["model"]["scan"]
                like = _like(other_form(), state) if other else state
                restored, progress = self._restore_state(step, like, changes)
                if other:
                    restored = _rearranged(restored, state)
            except Gone:
                continue
            except Damaged as error:
                damaged.append(error)
                continue
            except UserError as error:
                if damaged:
                    raise UserError(f"{damaged[0]}; the one before: {error}") from error
                raise
            on_first_process(lambda: self._set_aside(damaged))
            on_first_process(partial(self._delete_old, step, before.keep_checkpoints))
            self._forget(LATEST)
            self._drop_best_after(step, progress)
            self._resumable = True
            return restored, progress
        if damaged:
            raise UserError(f"no checkpoint of {self._workdir} is intact: {damaged[0]}")
        self._check_new()
        self._drop_best_after(0, Progress())
        return None

    def _check_new(self) -> None:
        """Check that a run without a checkpoint has never had one."""
        best, had_damaged = of_first_process(
            lambda: (self._steps(BEST), has_folder(self._workdir / DAMAGED))
        )
        # The lines of the log are counted when a checkpoint is saved.
        lost = best and self._read(BEST, best[-1], "progress")["progress"]["lines"]
        if lost or had_damaged:
            raise UserError(
                f"{self._workdir} has had checkpoints, and has none to resume from; to start again,"
                " give another workdir"
            )

    def _delete_old(self, step: int, keep: int) -> None:
        """Delete checkpoints that the process had yet to delete when it was killed."""
        older = [old for old in self._steps(LATEST) if old <= step]
        for old in older[: -max(keep, self._keep[LATEST])]:
            delete_checkpoint(self._workdir / LATEST / str(old))

    def _drop_best_after(self, step: int, progress: Progress) -> None:
        """Delete the best networks of steps that the run has yet to reach again, and old ones."""

        def drop() -> list[int] | None:
            """Return the steps that are left; None if nothing was deleted."""
            steps = self._steps(BEST)
            left = [best for best in steps if best <= step][-self._keep[BEST] :]
            for best in sorted({*steps} - {*left}):
                delete_checkpoint(self._workdir / BEST / str(best))
            return left if left != steps else None

        left = of_first_process(drop)
        self._forget(BEST)
        # They had replaced the one that was the best at that step.
        if left is not None and progress.best and progress.best["step"] not in left:
            progress.best = None

    def _changes(self, step: int, allow_config_change: bool) -> list[str]:
        """Return the differences between this run and the one that saved a checkpoint."""
        config = self.restore_config(LATEST, step)
        changes = config_lib.differences(config, self._config)
        now, before = (
            dataclasses.asdict(info) for info in (self._dataset, self.restore_dataset(LATEST, step))
        )
        data = [f"data set's {name}" for name in now if now[name] != before[name]]
        if changes and not allow_config_change:
            raise config_change_error(self._workdir, changes)
        if data and not allow_config_change:
            raise UserError(
                f"data set {before['name']} has changed since the run in {self._workdir} was saved"
                f" ({', '.join(data)}); give another workdir, or --allow_config_change"
            )
        return changes + data

    def _restore_state(
        self, step: int, state: TrainState, changes: Sequence[str]
    ) -> tuple[TrainState, Progress]:
        model, training = jax.tree.map(ocp.utils.to_shape_dtype_struct, _split(state))
        try:
            restored = self._read(LATEST, step, "progress", model=model, training=training)
        except OtherArrays as error:
            if not changes:
                raise
            # The changed config is at fault, not the checkpoint.
            raise UserError(
                f"the run can't go on with that change of the config ({'; '.join(changes)}):"
                f" {error.reason}"
            ) from error
        restored_state = TrainState(**restored["model"], **restored["training"])
        try:
            progress = Progress(**restored["progress"])
        except TypeError as error:  # its checksum is right
            raise UserError(
                f"checkpoint {step} of {self._workdir} is of another version: {one_line(error)}"
            ) from error
        if changes:
            progress.config_changes.append({"step": step, "changes": list(changes)})
        return restored_state.replace(seed=state.seed), progress

    def _set_aside(self, damaged: Sequence[Damaged]) -> None:
        """Move checkpoints away, and say so."""
        for error in damaged:
            folder = self._workdir / DAMAGED
            make_folder(folder)
            name = f"{error.path.parent.name}-{error.path.name}"
            places = (folder / f"{name}{f'-{n}' if n > 1 else ''}" for n in itertools.count(1))
            place = next(place for place in places if not place.exists())
            move_folder(error.path, place)
            self._warn(f"{error}; set aside as {place}")

    @staticmethod
    def _warn(message: str) -> None:
        print(f"warning: {message}", file=sys.stderr, flush=True)


def _error_of(action: Callable[[], Any]) -> Exception | None:
    """Call a function; return its error, the operating system's or TensorStore's, if any."""
    try:
        action()
    except Exception as error:
        return error
    return None


def _split(state: TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
    training = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    model = {name: training.pop(name) for name in ("params", "batch_stats", "ema")}
    return model, training


def _on_host(array: jax.Array) -> np.ndarray:
    """Return an array of the same shape and dtype on the host, which takes no memory."""
    return np.broadcast_to(np.zeros((), array.dtype), array.shape)


def _like(shapes: TrainState, state: TrainState) -> TrainState:
    """Return the shapes with the devices of a state."""
    return jax.tree.map(lambda x: x.update(sharding=state.step.sharding), shapes)


def _rearranged(saved: TrainState, state: TrainState) -> TrainState:
    """Rearrange a saved state to the form and the devices of another."""
    num_seeds = state.step.size
    first = jax.eval_shape(partial(at_seed, number=0, num_seeds=num_seeds), state)
    saved = saved.replace(seed=state.seed)
    moved = over_seeds(partial(match_layout, like=first), num_seeds)(saved)
    return jax.tree.map(lambda x, y: jax.device_put(x, y.sharding), moved, state)
