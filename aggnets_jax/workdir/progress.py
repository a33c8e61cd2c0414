"""The progress of a run: its record in checkpoints, its clock, and its printed lines."""

import contextlib
import dataclasses
import datetime
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import ml_collections
from jax.sharding import Mesh
from rich.console import Console
from rich.table import Column, Table

from aggnets_jax.runtime.mesh import bytes_per_device
from aggnets_jax.training.setup import Setup
from aggnets_jax.training.state import TrainState
from aggnets_jax.training.task import Task


@dataclasses.dataclass
class Progress:
    """The run so far, as a checkpoint says; JSON data.

    Attributes:
      evaluated: the step that was evaluated last; 0 if none was.
      final: the last evaluation, or None; `best` is the best one.
      best_of_seeds: with several seeds, the best evaluation of each.
      owed: the step of an evaluation that a stop has put off; 0 if none was.
      lines: number of lines of each file of metrics.
      teacher: its "workdir" and "checkpoint", as the config names them, and its "step"; or None.
      images: number of images that were trained on, in `seconds`.
      compile_seconds: time to compile the step, in the process that saved this.
      compile_seconds_saved: time that the compilation cache saved; None if the step was not in it.
      peak_memory_bytes: of one device, in that process.
      commits: revisions of the code that the run's processes had, if they are known.
      config_changes: "step" and "changes" for each change of the config.
    """

    evaluated: int = 0
    final: dict[str, Any] | None = None
    best: dict[str, Any] | None = None
    best_of_seeds: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    owed: int = 0
    lines: dict[str, int] = dataclasses.field(default_factory=dict)
    teacher: dict[str, Any] | None = None
    images: int = 0
    seconds: float = 0.0
    compile_seconds: float | None = None
    compile_seconds_saved: float | None = None
    peak_memory_bytes: int | None = None
    commits: list[str] = dataclasses.field(default_factory=list)
    config_changes: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def add_evaluation(self, metrics: dict[str, Any], by: str) -> bool:
        """Note an evaluation, with its "step"; return whether it is the best so far by a metric."""
        now = [{"step": metrics["step"], **at_seed} for at_seed in metrics.get("seeds", ())]
        pairs = zip(self.best_of_seeds or now, now, strict=True)
        self.best_of_seeds = [new if new[by] > old[by] else old for old, new in pairs]
        self.evaluated, self.final = metrics["step"], metrics
        if self.best and metrics[by] <= self.best[by]:
            return False
        self.best = metrics
        return True

    def note_compilation(self, seconds: float, saved: float | None) -> None:
        """Note how long the step took to compile, and print it."""
        self.compile_seconds, self.compile_seconds_saved = seconds, saved
        kept = "" if saved is None else f", from the compilation cache, which saved {saved:.0f} s"
        print(f"step compiled in {seconds:.1f} s{kept}", flush=True)


class Clock:
    """Images that were trained, and the seconds that it took, in all processes of the run."""

    def __init__(self, images: int = 0, seconds: float = 0.0) -> None:
        self.images = images
        self.seconds = seconds
        self._since = time.perf_counter()

    def lap(self, images: int) -> float:
        """Count the images since the last lap, when the devices are done; return their speed."""
        now = time.perf_counter()
        seconds = now - self._since
        self.images += images
        self.seconds += seconds
        self._since = now
        return images / seconds

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock within the context, which begins when the devices are done."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._since += time.perf_counter() - began

    @property
    def images_per_second(self) -> float:
        """Speed over the whole run; 0 before the first lap."""
        return self.images / self.seconds if self.seconds else 0.0


def print_setup(setup: Setup, network: Mapping[str, Any], mesh: Mesh, state: TrainState) -> None:
    """Print links, parameters and multiply-adds of a network, its data, and its devices."""
    links = {
        f"stage{number}": str(topology.num_links)
        for number, topology in enumerate(setup.network.topologies, start=1)
    }
    table = Table("part", *(Column(c, justify="right") for c in ("links", "parameters", "MACs")))
    for name, part in setup.counts.items():
        table.add_row(name, links.get(name, ""), f"{part.params:,}", f"{part.macs:,}")
    table.add_section()
    total = (f"{network[name]:,}" for name in ("links", "params", "macs"))
    table.add_row(network["name"], *total)
    Console().print(table)
    info, step = setup.info, state.updates
    print(
        f"{info.name}: {info.num_train:,} + {info.num_eval:,} images of"
        f" {'x'.join(map(str, info.image_shape))}, {info.num_classes} classes;"
        f" {mesh.size} {jax.devices()[0].device_kind} device(s)"
        + (f" in {n} processes" if (n := jax.process_count()) > 1 else "")
        + f", {bytes_per_device(state) / 1e6:.3g} MB of state on each"
        + (f"; continuing after step {step} of {setup.total_steps}" if step else ""),
        flush=True,
    )


def print_training(
    task: Task,
    step: int,
    total_steps: int,
    metrics: Mapping[str, float],
    speed: float,
    config: ml_collections.ConfigDict,
) -> None:
    """Print a line of the log; `speed` is in images per second."""
    images = (total_steps - step) * config.batch_size * config.num_seeds
    skipped = metrics.get("train/skipped_steps")
    left = datetime.timedelta(seconds=round(images / speed))
    print(
        f"step {step:>{len(str(total_steps))}}/{total_steps}  {_shown(task, metrics, 'train/')}"
        f"  lr {metrics['train/learning_rate']:.4g}  {speed:,.0f} images/s  ETA {left}"
        + (f"  skipped steps: {skipped:g}" if skipped else ""),
        flush=True,
    )


def print_evaluation(task: Task, metrics: Mapping[str, Any]) -> None:
    """Print the result of an evaluation, with its "step", in a line."""
    mean = f", means of {len(metrics['seeds'])} seeds" if "seeds" in metrics else ""
    skipped = f", {metrics['skipped']} skipped" if metrics.get("skipped") else ""
    print(
        f"step {metrics['step']}  evaluation: {_shown(task, metrics)}"
        f" of {metrics['examples']} images{skipped}{mean}",
        flush=True,
    )


def _shown(task: Task, metrics: Mapping[str, Any], prefix: str = "") -> str:
    return "  ".join(
        f"{name.replace('_', ' ')} {metrics[prefix + name]:{form}}"
        for name, form in task.shown.items()
        if prefix + name in metrics
    )
