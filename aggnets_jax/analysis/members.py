"""Several networks for one analysis: seeds and checkpoints of one run or of several."""

import argparse
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from aggnets_jax.analysis import command
from aggnets_jax.analysis.calibration import cross_entropy
from aggnets_jax.analysis.outputs import Outputs
from aggnets_jax.errors import UserError
from aggnets_jax.files import any_path
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.statistics import accuracy_interval
from aggnets_jax.training.state import seeds
from aggnets_jax.workdir.checkpoints import Checkpoints
from aggnets_jax.workdir.restore import Restored, restore_network

ALL = "all"
"""Name of all checkpoints that a run has kept."""


class Member(NamedTuple):
    """A network with the variables of one seed, and its name in tables."""

    name: str
    restored: Restored


def add_arguments(parser: argparse.ArgumentParser, checkpoints: str | None = None) -> None:
    """Add the flags of `find_members`; `checkpoints` is the default of `--checkpoints`."""
    text = "another run whose networks take part; may be repeated"
    parser.add_argument("--with", dest="others", metavar="WORKDIR", action="append", help=text)
    text = (
        f"checkpoints of each run: latest, best, steps (with commas), or {ALL} that are kept;"
        f" default {checkpoints or 'the one of --checkpoint'}"
    )
    parser.add_argument("--checkpoints", default=checkpoints, help=text)


def find_members(given: argparse.Namespace) -> Iterator[Member]:
    """Restore the networks that the flags name, one after another, each once.

    They are the checkpoints `--checkpoints` (by default the one of `--checkpoint`) of the run in
    `--workdir` and the runs in `--with`, with all seeds or the one of `--seed`.

    Raises:
      UserError: if there is no such run, checkpoint or seed, or it is for other images or classes
        than the first.
    """
    everywhere, first, seen = mesh_lib.replicated(mesh_lib.make_mesh()), None, set()
    for workdir in (given.workdir, *(given.others or ())):
        for which in _checkpoints(workdir, given.checkpoints or given.checkpoint):
            restored = restore_network(workdir, which, everywhere)
            place = any_path(workdir).resolve(), restored.step
            if place in seen:
                continue
            seen.add(place)
            first = first or restored
            _check_alike(given.workdir, first, workdir, restored)
            there = np.ravel(seeds(restored.config)).tolist()
            for seed in there if given.seed is None else [given.seed]:
                name = f"{workdir}, step {restored.step}"
                name += f", seed {seed}" if len(there) > 1 else ""
                yield Member(name, restored._replace(variables=restored.variables_at(seed)))


def _checkpoints(workdir: str, asked: str) -> list[str]:
    if asked != ALL:
        return asked.split(",")
    with Checkpoints(workdir) as checkpoints:
        return list(map(str, checkpoints.steps())) or ["latest"]  # which says that there is none


def _check_alike(name: str, first: Restored, other_name: str, other: Restored) -> None:
    """Raise `UserError` unless two networks classify the same images into the same classes."""
    if "detection" in (first.config.task, other.config.task):
        raise UserError("several networks are joined for classification alone")
    for field, noun in (("image_shape", "images"), ("class_names", "classes")):
        if getattr(first.info, field) != getattr(other.info, field):
            raise UserError(f"{other_name} is for other {noun} than {name}")


def figures(name: str, outputs: Outputs) -> dict[str, float | str]:
    """Return a record: `network`, `accuracy` with its 95 % interval `low` to `high`, and `loss`."""
    accuracy = float((outputs.values.argmax(axis=-1) == outputs.labels).mean())
    low, high = accuracy_interval(accuracy, len(outputs.labels))
    loss = cross_entropy(outputs.values, outputs.labels)
    return {"network": name, "accuracy": accuracy, "low": low, "high": high, "loss": loss}


def cells(record: dict[str, float | str]) -> dict[str, str]:
    """Return a row of the printed table."""
    return {
        "network": str(record["network"]),
        **command.accuracy_cells(record),
        "loss": f"{record['loss']:.4f}",
    }
