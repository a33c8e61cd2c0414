"""Everything Orbax: saving, keeping and restoring checkpoints.

A workdir holds two series of checkpoints: `checkpoints/`, the latest of the run, from which it
goes on; and `best/`, the network of the best evaluation so far. Each checkpoint consists of items:

    model      params, batch_stats and, where the config asks for them, their averages "ema"
    training   the rest of the state: optimiser, step, seed, ... (not in `best/`)
    config     the resolved config as JSON
    dataset    what the network knows of its data, names of the classes included, as JSON: so that
               nothing but the directory is needed to have the network
    progress   as JSON: which step was evaluated last, which evaluation was the best
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import jax
import orbax.checkpoint as ocp
from jax.sharding import Sharding

from aggnets_jax.data import DatasetInfo
from aggnets_jax.errors import UserError
from aggnets_jax.step import TrainState

LATEST, BEST = "checkpoints", "best"


@dataclasses.dataclass
class Progress:
    """What a checkpoint says of the run so far.

    Attributes:
      evaluated: the step that was evaluated last; 0 if none was.
      final: that evaluation, or None.
      best: the one with the highest accuracy, or None.
      best_of_seeds: with several seeds, the best of each.
      lines: of each metrics file, how many were written.
      images: trained on, and timed.
      seconds: that they took.
      compile_seconds: of the step, in the process that saved this.
      peak_memory_bytes: of one device, in that process.
      commits: of the code that the run's processes had, as far as is known.
    """

    evaluated: int = 0
    final: dict[str, Any] | None = None
    best: dict[str, Any] | None = None
    best_of_seeds: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    lines: dict[str, int] = dataclasses.field(default_factory=dict)
    images: int = 0
    seconds: float = 0.0
    compile_seconds: float | None = None
    peak_memory_bytes: int | None = None
    commits: list[str] = dataclasses.field(default_factory=list)


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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for manager in self._managers.values():
            manager.wait_until_finished()
            manager.close()

    def _manager(self, folder: str) -> ocp.CheckpointManager:
        if folder not in self._managers:
            self._managers[folder] = ocp.CheckpointManager(
                self._workdir / folder,
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=self._keep[folder],
                    create=not self._read_only,
                    read_only=self._read_only,
                    cleanup_tmp_directories=not self._read_only,
                ),
                item_names=("model", "training", "config", "dataset", "progress"),
            )
        return self._managers[folder]

    def save(self, state: TrainState, progress: Progress) -> None:
        """Begins to save the whole state; does nothing if that step is saved already."""
        step = state.updates
        if step in self._manager(LATEST).all_steps():
            return
        model, training = _split(state)
        items = self._items(model, progress)
        items["training"] = ocp.args.StandardSave(training)
        self._manager(LATEST).save(step, args=ocp.args.Composite(**items))

    def save_best(self, state: TrainState, progress: Progress) -> None:
        """Begins to save the network as that of the best evaluation so far."""
        manager, step = self._manager(BEST), state.updates
        # Checkpoints after this step are of a run that was killed before it could save its state.
        for later in [s for s in manager.all_steps() if s >= step]:
            manager.delete(later)
        manager.save(step, args=ocp.args.Composite(**self._items(_split(state)[0], progress)))

    def _items(self, model: Any, progress: Progress) -> dict[str, Any]:
        return {
            "model": ocp.args.StandardSave(model),
            "config": ocp.args.JsonSave(dict(self._config)),
            "dataset": ocp.args.JsonSave(dataclasses.asdict(self._dataset)),
            "progress": ocp.args.JsonSave(dataclasses.asdict(progress)),
        }

    def restore(self, state: TrainState) -> tuple[TrainState, Progress] | None:
        """Restores the newest checkpoint.

        Args:
          state: whose shapes, dtypes and shardings the restored state gets.

        Returns:
          The state and the progress that was saved with it; None if there is no checkpoint.

        Raises:
          UserError: if it is damaged, or the data set is not what it was.
        """
        steps = self._steps(LATEST)
        if not steps:
            return None
        self._check_same_dataset(self.restore_dataset(LATEST, steps[-1]))
        model, training = jax.tree.map(ocp.utils.to_shape_dtype_struct, _split(state))
        restored = self._restore(
            LATEST,
            steps[-1],
            model=ocp.args.StandardRestore(model),
            training=ocp.args.StandardRestore(training),
            progress=ocp.args.JsonRestore(),
        )
        state = TrainState(**restored["model"], **restored["training"])
        return state, Progress(**restored["progress"])

    def _check_same_dataset(self, saved: DatasetInfo) -> None:
        now, before = dataclasses.asdict(self._dataset), dataclasses.asdict(saved)
        changed = ", ".join(name for name in now if now[name] != before[name])
        if changed:
            raise UserError(
                f"data set {saved.name} has changed since the run in {self._workdir} was saved"
                f" ({changed}); give it another workdir"
            )

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

    def _restore(self, folder: str, step: int, **items: ocp.args.CheckpointArgs) -> Any:
        try:
            return self._manager(folder).restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # whatever Orbax and TensorStore make of a damaged file
            raise UserError(
                f"checkpoint {self._workdir / folder / str(step)} is damaged"
                f" ({type(error).__name__}); move it away to go on from the one before it"
            ) from error

    def restore_config(self, folder: str, step: int) -> dict[str, Any]:
        """The resolved config that a checkpoint was saved with, as JSON data."""
        return self._restore(folder, step, config=ocp.args.JsonRestore())["config"]

    def restore_dataset(self, folder: str, step: int) -> DatasetInfo:
        """What is known of the data set that a checkpoint was trained on."""
        saved = self._restore(folder, step, dataset=ocp.args.JsonRestore())["dataset"]
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
        model = self._restore(folder, step, model=ocp.args.StandardRestore(target))["model"]
        return model["ema"] or {name: model[name] for name in like}
