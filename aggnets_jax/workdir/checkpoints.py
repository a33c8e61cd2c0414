"""The format of checkpoints, and reading them with Orbax.

A workdir has two series of checkpoints: `checkpoints/`, the latest states, from which a run
resumes; and `best/`, the network of the best evaluation so far. Each checkpoint consists of items:

    model      params, batch_stats and, where the config asks for them, their averages "ema"
    training   the rest of the state: optimiser, step, seed, ... (not in `best/`)
    config     the resolved config, as JSON
    dataset    the `DatasetInfo`, as JSON, so that evaluation and prediction need no other files
    progress   the `Progress`, as JSON
    checksums  checksums of all other items, as JSON; they are compared at each reading

Orbax gives a checkpoint its name when it is complete. In a bucket, where nothing can be renamed, a
complete checkpoint gets the object `commit_success.txt`.
"""

import contextlib
import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Sharding

from aggnets_jax.buckets import is_storage_error, is_url, storage
from aggnets_jax.data import DatasetInfo
from aggnets_jax.errors import Damaged, Gone, OtherArrays, UserError, one_line
from aggnets_jax.files import AnyPath, PathLike, any_path, check_fields, has_folder, passes
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.runtime.distributed import gather, to_host
from aggnets_jax.training.state import leaves_by_path
from aggnets_jax.workdir.folder import BEST, LATEST
from aggnets_jax.workdir.managers import open_reader
from aggnets_jax.workdir.mirror import Mirror
from aggnets_jax.workdir.names import plain_path

Result = TypeVar("Result")

# How TensorStore's errors begin when the storage has not given what was asked of it.
_REFUSED = re.compile(
    r"\b(DEADLINE_EXCEEDED|PERMISSION_DENIED|RESOURCE_EXHAUSTED|UNAUTHENTICATED|UNAVAILABLE)\b"
)

_DATASET = {
    "name": str,
    "num_classes": int,
    "class_names": [str],
    "image_shape": [int],
    "num_train": int,
    "num_eval": int,
    "train_split": str,
    "eval_split": str,
    "mean": [float],
    "std": [float],
    "category_ids": [int],
}


class Checkpoints(contextlib.AbstractContextManager):
    """The checkpoints of a workdir, for reading; nothing is written.

    Several processes read each checkpoint together, but for a process that is `alone`.
    """

    def __init__(self, workdir: PathLike, *, alone: bool = False) -> None:
        self._alone = alone
        path = any_path(workdir)
        self._workdir = path if is_url(path) else path.absolute()
        self._links = contextlib.ExitStack()
        for folder in (LATEST, BEST):
            path = self._workdir / folder
            if not is_url(path) and path.exists() and not path.is_dir():
                raise UserError(f"{path} must be a directory of checkpoints")
        self._managers: dict[str, ocp.CheckpointManager] = {}
        in_s3 = str(self._workdir).startswith("s3://")
        self._mirror = Mirror(self._workdir) if in_s3 else None

    def __exit__(self, *exception: object) -> None:
        for folder in (BEST, LATEST):
            self._forget(folder)
        self._links.close()
        if self._mirror:
            self._mirror.close()

    @cached_property
    def _plain_workdir(self) -> AnyPath:
        return self._workdir if is_url(self._workdir) else plain_path(self._workdir, self._links)

    def _manager(self, folder: str) -> ocp.CheckpointManager:
        if folder not in self._managers:
            self._managers[folder] = open_reader(self._series(folder))
        return self._managers[folder]

    def _series(self, folder: str) -> AnyPath:
        """Return where Orbax finds the checkpoints of a folder that are there now."""
        if self._mirror:
            self._mirror.look(folder)
        return (self._mirror.root if self._mirror else self._plain_workdir) / folder

    def _forget(self, folder: str) -> None:
        """Close the manager of a folder, so that the next one looks at the disk."""
        if manager := self._managers.pop(folder, None):
            manager.close()

    def find(self, which: str | int) -> tuple[str, int]:
        """Return folder and step of the "latest", the "best" or a step's checkpoint.

        Raise `UserError` if there is none.
        """
        if not has_folder(self._workdir):
            raise UserError(f"there is no workdir {self._workdir}")
        folders = {"latest": LATEST, "best": BEST}
        steps = {name: self._steps(folder) for name, folder in folders.items()}
        which = str(which)
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

    def newest(self) -> int:
        """Return the step of the latest checkpoint; -1 if there is none."""
        return max(self._steps(LATEST), default=-1)

    def steps(self) -> list[int]:
        """Return the steps of all checkpoints, ascending."""
        return sorted({*self._steps(LATEST), *self._steps(BEST)})

    def _steps(self, folder: str) -> list[int]:
        place = self._workdir / folder
        # A manager would make a folder that is not there, or fail on its own terms.
        if not has_folder(place):
            return []
        with storage(place) if is_url(place) else contextlib.nullcontext():
            return sorted(self._manager(folder).all_steps())

    def _read(self, folder: str, step: int, *json_items: str, **arrays: Any) -> dict[str, Any]:
        """Read items of a checkpoint in all processes, and compare them with their checksums.

        `arrays` has the shapes, dtypes and shardings of the items that are arrays. An error in one
        process is raised in all of them.

        Raises:
          Damaged: if an item can't be read, or differs from the saved one.
          Gone: if there is no such checkpoint any more.
          OtherArrays: if an item is intact, but does not fit `arrays`.
        """
        path = self._workdir / folder / str(step)
        saved, items = self._together(
            path, partial(self._read_json, folder, step, json_items, arrays)
        )
        if not arrays:
            return items
        args = {item: ocp.args.StandardRestore(target) for item, target in arrays.items()}
        items |= self._together(path, partial(self._restore, folder, step, args))
        # All processes have their parts of the arrays now, and sum up those of the others.
        found = {item: array_checksums(items[item]) for item in arrays}

        def compare() -> None:
            for item in arrays:
                for name, checksum in found[item].items():
                    if checksum != saved[item][name]:
                        raise Damaged(path, f"{item}/{name} has another checksum")

        self._together(path, compare)
        return items

    def _together(self, path: AnyPath, action: Callable[[], Result]) -> Result:
        """Call a function that reads a checkpoint in all processes; raise one error in all."""
        result: Any = None
        error: Exception | None = None
        cause: Exception | None = None
        try:
            result = action()
        except (Damaged, OtherArrays) as raised:
            error = cause = raised
        except Exception as raised:  # Orbax, TensorStore and JSON raise any at a damaged file
            error, cause = _reported(path, raised), raised
        told = error and (type(error).__name__, getattr(error, "reason", str(error)))
        for kind, reason in filter(None, [told] if self._alone else gather(told)):
            raise error_as_told(path, kind, reason) from cause
        return result

    def _restore(self, folder: str, step: int, args: Mapping[str, Any]) -> dict[str, Any]:
        return dict(self._manager(folder).restore(step, args=ocp.args.Composite(**args)).items())

    def _read_json(
        self, folder: str, step: int, json_items: Sequence[str], arrays: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return checksums and JSON items of a checkpoint; raise if it has other `arrays`."""
        path = self._workdir / folder / str(step)
        if self._mirror:
            self._manager(folder)
            self._mirror.fetch(folder, step)
        args = {item: ocp.args.JsonRestore() for item in ("checksums", *json_items)}
        items = self._restore(folder, step, args)
        saved = items.pop("checksums")
        for item, target in arrays.items():
            if reason := difference(item, saved[item], target):
                found = _as_saved(self._manager(folder).directory / str(step) / item)
                whole = array_checksums(found) == saved[item]
                raise (OtherArrays if whole else Damaged)(path, reason)
        for item in json_items:
            if json_checksum(items[item]) != saved[item]:
                raise Damaged(path, f"its {item} has another checksum")
        return saved, items

    def restore_config(self, folder: str, step: int) -> dict[str, Any]:
        """Restore the resolved config of a checkpoint, as JSON data."""
        return self._read(folder, step, "config")["config"]

    def restore_dataset(self, folder: str, step: int) -> DatasetInfo:
        """Restore the description of the data set that a checkpoint was trained on."""
        saved = self._read(folder, step, "dataset")["dataset"]
        path = self._workdir / folder / str(step)
        saved = {"category_ids": [], **saved}  # earlier versions had none
        check_fields(path, saved, _DATASET)
        # JSON has no tuples.
        lists = (name for name, kind in _DATASET.items() if isinstance(kind, list))
        try:
            info = DatasetInfo(**{**saved, **{name: tuple(saved[name]) for name in lists}})
        except TypeError as error:  # its checksum is right
            raise UserError(f"{path} is of another version: {one_line(error)}") from error
        if len(info.class_names) != info.num_classes or len(info.image_shape) != 3:
            raise Damaged(path, "its data set contradicts itself")
        return info

    def restore_model(
        self,
        folder: str,
        step: int,
        variables: Mapping[str, Any],
        sharding: Sharding,
        *,
        averaged: bool,
    ) -> dict[str, Any]:
        """Restore "params", "batch_stats", and "ema", their averages or None.

        `variables` has the shapes of "params" and "batch_stats", and `averaged` says whether the
        checkpoint has averages.
        """
        like = {name: variables.get(name, {}) for name in ("params", "batch_stats")}
        target = mesh_lib.shapes_on({**like, "ema": like if averaged else None}, sharding)
        return self._read(folder, step, model=target)["model"]

    def restore_variables(self, *arguments: Any, averaged: bool) -> dict[str, Any]:
        """Restore the averages, or the variables without any; arguments as for `restore_model`."""
        model = self.restore_model(*arguments, averaged=averaged)
        return model["ema"] or {name: model[name] for name in ("params", "batch_stats")}


def _as_saved(place: epath.Path) -> Any:
    """Read arrays to this host's memory as they are, whatever the devices that saved them."""
    with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
        tree = handler.metadata(place).tree
        target = jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), tree)
        return handler.restore(place, args=ocp.args.StandardRestore(target))


def error_as_told(path: AnyPath, kind: str, reason: str) -> Exception:
    """Return an error at a checkpoint from the name of its class, and its reason or message."""
    if kind == Gone.__name__:
        return Gone(path)
    for known in (Damaged, OtherArrays):
        if kind == known.__name__:
            return known(path, reason)
    return OSError(reason) if kind == OSError.__name__ else UserError(reason)


def _reported(path: AnyPath, error: Exception) -> Exception:
    """Return the error to report for one while a checkpoint was read: damaged or out of reach."""
    why = one_line(error)
    refused = _REFUSED.search(str(error))
    if _is_gone(path):
        return Gone(path)
    # Orbax takes a folder that may not be read for one that is not there.
    forbidden = None if is_url(path) else _forbidden(path)
    if forbidden or isinstance(error, PermissionError):
        return UserError(f"{forbidden or path} may not be read: {why}")
    if isinstance(error, IsADirectoryError | NotADirectoryError | FileNotFoundError):
        return Damaged(path, why)
    if passes(error) or (is_url(path) and (is_storage_error(error) or refused)):
        return OSError(f"{path}: it can't be read: {why}")
    if isinstance(error, MemoryError | OSError) or refused:
        return UserError(f"{path} can't be read: {why}")
    return Damaged(path, f"it can't be read: {why}")


def _is_gone(path: AnyPath) -> bool:
    try:
        if is_url(path):
            return not has_folder(path)
        path.stat()
    except OSError as error:
        return isinstance(error, FileNotFoundError)
    return False


def _forbidden(path: Path) -> Path | None:
    """Return a folder or file of a checkpoint that this process may not read, if there is one."""
    below = (Path(top, name) for top, *names in os.walk(path) for name in itertools.chain(*names))
    for place in itertools.chain([path], below):
        if not os.access(place, os.R_OK | (os.X_OK if place.is_dir() else 0)):
            return place
    return None


def array_checksums(tree: Any) -> dict[str, list[Any]]:
    """Return the checksums of arrays by their paths: [dtype, shape, SHA-256 of the bytes]."""
    return {
        path: [*_dtype_and_shape(x), hashlib.sha256(np.ascontiguousarray(to_host(x))).hexdigest()]
        for path, x in leaves_by_path(tree).items()
    }


def _dtype_and_shape(array: jax.Array | jax.ShapeDtypeStruct) -> list[Any]:
    return [array.dtype.name, list(array.shape)]


def difference(item: str, saved: Mapping[str, Any], target: Any) -> str | None:
    """Return how names, dtypes or shapes of an item differ from its checksums; None if not."""
    there = {name: checksum[:2] for name, checksum in saved.items()}
    wanted = {name: _dtype_and_shape(array) for name, array in leaves_by_path(target).items()}
    for name in sorted(wanted.keys() | there.keys()):
        if wanted.get(name) != there.get(name):
            was, now = (
                f"{kinds[name][0]} {kinds[name][1]}" if name in kinds else "nothing"
                for kinds in (there, wanted)
            )
            return f"{item}/{name} is {was} there, and must be {now}"
    return None


def json_checksum(value: Any) -> str:
    """Return the SHA-256 of JSON data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
