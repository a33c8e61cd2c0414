"""Everything Orbax: saving, keeping and restoring checkpoints.

A workdir holds two series of checkpoints: `checkpoints/`, the latest of the run, from which it
goes on; and `best/`, the network of the best evaluation so far. Each checkpoint consists of items:

    model      params, batch_stats and, where the config asks for them, their averages "ema"
    training   the rest of the state: optimiser, step, seed, ... (not in `best/`)
    config     the resolved config as JSON
    dataset    what the network knows of its data, names of the classes included, as JSON: so that
               nothing but the directory is needed to have the network
    progress   as JSON: which step was evaluated last, which evaluation was the best
    checksums  of all of the others, as JSON; whatever is read is compared with them

A checkpoint is whole or not there: Orbax gives it its name when all of it is written.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import orbax.checkpoint as ocp
from jax.sharding import Sharding

from aggnets_jax import checksum
from aggnets_jax import config as config_lib
from aggnets_jax.data import DatasetInfo
from aggnets_jax.errors import Damaged, OtherArrays, Unsaved, UserError, one_line
from aggnets_jax.progress import Progress
from aggnets_jax.step import TrainState
from aggnets_jax.workdir import another_config

LATEST, BEST, DAMAGED = "checkpoints", "best", "damaged"
JSON_ITEMS = ("config", "dataset", "progress")


def _split(state: TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
    model = {"params": state.params, "batch_stats": state.batch_stats, "ema": state.ema}
    training = {
        "seed": state.seed,
        "opt_state": state.opt_state,
        "step": state.step,
        "strength": state.strength,
        "totals": state.totals,
    }
    return model, training


class Checkpoints:
    """The checkpoints of a workdir. Saves are asynchronous; leaving the context waits for them.

    A save that fails, for want of space or of a disk, is told on stderr; the checkpoints before it
    stay as they are, and the next save tries again.

    Args:
      workdir: of the run.
      keep: how many of the latest checkpoints to keep.
      config: as JSON data, to be saved in each checkpoint.
      dataset: likewise.
      read_only: for evaluation: creates, cleans up and saves nothing.
    """

    def __init__(
        self,
        workdir: str | Path,
        *,
        keep: int = 1,
        config: Mapping[str, Any] | None = None,
        dataset: DatasetInfo | None = None,
        read_only: bool = False,
    ) -> None:
        self._workdir = Path(workdir).expanduser().absolute()
        for folder in (LATEST, BEST):
            path = self._workdir / folder
            if path.exists() and not path.is_dir():
                raise UserError(f"{path} must be a directory of checkpoints")
        self._config = config
        self._dataset = dataset
        self._keep = {LATEST: keep, BEST: 1}
        self._read_only = read_only
        self._managers: dict[str, ocp.CheckpointManager] = {}
        # Of the newest saves, by folder: the step, and what was wrong if it failed.
        self._begun: dict[str, int] = {}
        self._failures: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for folder in (BEST, LATEST):
            self._settle(folder)
            self._forget(folder)

    def _manager(self, folder: str) -> ocp.CheckpointManager:
        if folder not in self._managers:
            self._managers[folder] = ocp.CheckpointManager(
                self._workdir / folder,
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=self._keep[folder],
                    create=not self._read_only,
                    read_only=self._read_only,
                    cleanup_tmp_directories=not self._read_only,
                    # The metadata of a damaged checkpoint would be an error before any is read.
                    lightweight_initialize=True,
                    # Else threads wait for a directory that can't be made, past the run's end.
                    async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
                ),
                item_names=("model", "training", *JSON_ITEMS, "checksums"),
            )
        return self._managers[folder]

    def _forget(self, folder: str) -> None:
        """Closes the manager of a folder, so that the next one looks at what is on the disk."""
        if manager := self._managers.pop(folder, None):
            with contextlib.suppress(Exception):  # that of a save that failed, once more
                manager.close()

    # ---- Saving.

    def save(self, state: TrainState, progress: Progress) -> None:
        """Begins to save the whole state; does nothing if that step is saved already.

        What `progress` names as the best is on the disk before; if it could not be saved, then
        `progress` is changed to name the one that is.
        """
        if not self._settle(BEST):
            self._name_saved_best(progress)
        self._settle(LATEST)
        model, training = _split(state)
        self._begin(LATEST, state.updates, progress, {"model": model, "training": training})

    def save_best(self, state: TrainState, progress: Progress) -> None:
        """Begins to save the network as that of the best evaluation so far."""
        self._settle(BEST)
        self._begin(BEST, state.updates, progress, {"model": _split(state)[0]})

    def finish(self) -> None:
        """Waits until all is saved.

        Raises:
          Unsaved: if the state that was to be saved last is not.
        """
        self._settle(BEST)
        if not self._settle(LATEST):
            steps = self._steps(LATEST)
            raise Unsaved(
                f"{self._failures[LATEST]}; the same command goes on"
                + (f" from step {steps[-1]}" if steps else " from the start")
            )

    def _begin(self, folder: str, step: int, progress: Progress, arrays: Mapping[str, Any]) -> None:
        self._failures.pop(folder, None)
        self._begun[folder] = step
        data = {
            "config": dict(self._config),
            "dataset": dataclasses.asdict(self._dataset),
            "progress": dataclasses.asdict(progress),
        }
        checksums = {
            **{item: checksum.of_arrays(tree) for item, tree in arrays.items()},
            **{item: checksum.of_json(value) for item, value in data.items()},
        }
        items = {item: ocp.args.StandardSave(tree) for item, tree in arrays.items()}
        for item, value in {**data, "checksums": checksums}.items():
            items[item] = ocp.args.JsonSave(value)
        try:
            manager = self._manager(folder)
            if folder == BEST:
                # Those after this step are of a run that was killed before it saved its state.
                for later in [s for s in manager.all_steps() if s >= step]:
                    manager.delete(later)
            if step not in manager.all_steps():
                manager.save(step, args=ocp.args.Composite(**items))
        except Exception as error:  # of the operating system, or what TensorStore makes of it
            self.failed(error, step, folder)

    def _settle(self, folder: str) -> bool:
        """Waits for what is being saved; returns whether the newest save succeeded."""
        try:
            if folder in self._managers:
                self._managers[folder].wait_until_finished()
        except Exception as error:
            self.failed(error, self._begun[folder], folder)
        return folder not in self._failures

    def failed(self, error: Exception, step: int, folder: str = LATEST) -> None:
        """Notes why the state after a step, or what must be before it, could not be saved."""
        what = "best network" if folder == BEST else "state"
        reason = one_line(error)
        self._failures[folder] = f"the {what} after step {step} could not be saved: {reason}"
        print(f"warning: {self._failures[folder]}", file=sys.stderr, flush=True)
        self._forget(folder)

    def _name_saved_best(self, progress: Progress) -> None:
        steps = self._steps(BEST)
        saved = (
            Progress(**self._read(BEST, steps[-1], "progress")["progress"]) if steps else Progress()
        )
        progress.best, progress.best_of_seeds = saved.best, saved.best_of_seeds

    # ---- Restoring.

    def restore(
        self, state: TrainState, *, allow_config_change: bool = False
    ) -> tuple[TrainState, Progress] | None:
        """Restores the newest checkpoint that is whole, and sets those aside that are damaged.

        Args:
          state: whose shapes, dtypes and shardings the restored state gets; its seed, too.
          allow_config_change: whether config and data set may be others than the checkpoint's.

        Returns:
          The state and the progress that was saved with it; None if there is no checkpoint.

        Raises:
          UserError: if there are checkpoints and none is whole, or it is of another run; nothing
            is set aside then.
        """
        damaged: list[Damaged] = []
        steps = self._steps(LATEST)
        for step in reversed(steps):
            try:
                changes = self._changes(step, allow_config_change)
                restored = self._restore_state(step, state, changes)
            except Damaged as error:
                damaged.append(error)
                continue
            for error in damaged:
                print(f"warning: {error}; {self._set_aside(error.path)}", file=sys.stderr)
            return restored
        if damaged:
            raise UserError(f"no checkpoint of {self._workdir} is whole: {damaged[0]}")
        if (self._workdir / DAMAGED).is_dir():
            raise UserError(
                f"{self._workdir} holds damaged checkpoints, and none to go on from; to start from"
                " scratch, give another workdir"
            )
        return None

    def _changes(self, step: int, allow_config_change: bool) -> list[str]:
        """What differs between the run that saved a checkpoint and this one."""
        config = self.restore_config(LATEST, step)
        changes = config_lib.differences(config, self._config)
        now, before = (
            dataclasses.asdict(info) for info in (self._dataset, self.restore_dataset(LATEST, step))
        )
        data = [f"data set's {name}" for name in now if now[name] != before[name]]
        if changes and not allow_config_change:
            raise another_config(self._workdir, changes)
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
            # Not the checkpoint is at fault.
            raise UserError(
                f"the run can't go on with that change of the config ({'; '.join(changes)}):"
                f" {error.reason}"
            ) from error
        restored_state = TrainState(**restored["model"], **restored["training"])
        progress = Progress(**restored["progress"])
        if changes:
            progress.config_changes.append({"step": step, "changes": list(changes)})
        return restored_state.replace(seed=state.seed), progress

    def _set_aside(self, path: Path) -> str:
        """Moves a checkpoint away; returns a text that says where to."""
        folder = self._workdir / DAMAGED
        folder.mkdir(exist_ok=True)
        place = folder / f"{path.parent.name}-{path.name}"
        number = 1
        while place.exists():
            number += 1
            place = folder / f"{path.parent.name}-{path.name}-{number}"
        path.rename(place)
        self._forget(path.parent.name)
        return f"set aside as {place}"

    def find(self, which: str) -> tuple[str, int]:
        """The folder and step of the "latest" checkpoint, the "best", or that of a given step.

        Raises:
          UserError: if there is none.
        """
        if not self._workdir.is_dir():
            raise UserError(f"there is no workdir {self._workdir}")
        folders = {"latest": LATEST, "best": BEST}
        steps = {name: self._steps(folder) for name, folder in folders.items()}
        if which in folders:
            if not steps[which]:
                raise UserError(f"no checkpoint in {self._workdir / folders[which]}")
            return folders[which], steps[which][-1]
        for name, folder in folders.items():
            if which in map(str, steps[name]):
                return folder, int(which)
        there = [name for name in folders if steps[name]]
        there += map(str, sorted({*steps["latest"], *steps["best"]}))
        allowed = ", ".join(there) or "none"
        raise UserError(f"no checkpoint {which!r} in {self._workdir}; allowed: {allowed}")

    def _steps(self, folder: str) -> list[int]:
        # A manager would make a folder that is not there, or fail on its own terms.
        if not (self._workdir / folder).is_dir():
            return []
        return sorted(self._manager(folder).all_steps())

    def _read(self, folder: str, step: int, *json_items: str, **arrays: Any) -> dict[str, Any]:
        """Reads items of a checkpoint, and compares them with their checksums.

        Args:
          folder: of the checkpoint.
          step: of the checkpoint.
          *json_items: names of items that are JSON.
          **arrays: shapes, dtypes and shardings of items that are arrays.

        Raises:
          Damaged: if that can't be read, or is not what was saved.
        """
        path = self._workdir / folder / str(step)
        manager = self._manager(folder)
        try:
            json_args = {item: ocp.args.JsonRestore() for item in ("checksums", *json_items)}
            items = dict(manager.restore(step, args=ocp.args.Composite(**json_args)).items())
            saved = items.pop("checksums")
            for item, target in arrays.items():
                checksum.check_kinds(path, item, saved[item], target)
            if arrays:
                array_args = {k: ocp.args.StandardRestore(target) for k, target in arrays.items()}
                items |= manager.restore(step, args=ocp.args.Composite(**array_args)).items()
            for item in json_items:
                if checksum.of_json(items[item]) != saved[item]:
                    raise Damaged(path, f"its {item} has another checksum")
            for item in arrays:
                for name, found in checksum.of_arrays(items[item]).items():
                    if found != saved[item][name]:
                        raise Damaged(path, f"{item}/{name} has another checksum")
        except Damaged:
            raise
        except Exception as error:  # whatever Orbax, TensorStore and JSON make of a damaged file
            raise Damaged(path, f"it can't be read ({type(error).__name__})") from error
        return items

    def restore_config(self, folder: str, step: int) -> dict[str, Any]:
        """The resolved config that a checkpoint was saved with, as JSON data."""
        return self._read(folder, step, "config")["config"]

    def restore_dataset(self, folder: str, step: int) -> DatasetInfo:
        """What is known of the data set that a checkpoint was trained on."""
        saved = self._read(folder, step, "dataset")["dataset"]
        # JSON has no tuples.
        return DatasetInfo(**{k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()})

    def restore_variables(
        self,
        folder: str,
        step: int,
        variables: Mapping[str, Any],
        sharding: Sharding,
        *,
        averaged: bool,
    ) -> dict[str, Any]:
        """Restores what `model.apply` takes.

        Args:
          folder: from `find`.
          step: from `find`.
          variables: shapes of "params" and "batch_stats".
          sharding: that the arrays get.
          averaged: whether the checkpoint has averages, which are then returned.
        """
        like = {name: variables.get(name, {}) for name in ("params", "batch_stats")}
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            {**like, "ema": like if averaged else None},
        )
        model = self._read(folder, step, model=target)["model"]
        return model["ema"] or {name: model[name] for name in like}
