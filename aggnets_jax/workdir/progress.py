"""How far a run has come: what a checkpoint says besides the state."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from typing import Any


@dataclasses.dataclass
class Progress:
    """What a checkpoint says of the run so far; JSON data.

    Attributes:
      evaluated: the step that was evaluated last; 0 if none was.
      final: that evaluation, or None.
      best: the one with the highest accuracy, or None.
      best_of_seeds: with several seeds, the best of each.
      lines: of each metrics file, how many were written.
      images: trained on, and timed.
      seconds: that they took.
      compile_seconds: of the step, in the process that saved this.
      compile_seconds_saved: by the compilation cache; None if the step was not in it.
      peak_memory_bytes: of one device, in that process.
      commits: of the code that the run's processes had, as far as is known.
      config_changes: for each time that the config changed, the "step" and the "changes".
    """

    evaluated: int = 0
    final: dict[str, Any] | None = None
    best: dict[str, Any] | None = None
    best_of_seeds: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    lines: dict[str, int] = dataclasses.field(default_factory=dict)
    images: int = 0
    seconds: float = 0.0
    compile_seconds: float | None = None
    compile_seconds_saved: float | None = None
    peak_memory_bytes: int | None = None
    commits: list[str] = dataclasses.field(default_factory=list)
    config_changes: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def add_evaluation(self, metrics: dict[str, Any]) -> bool:
        """Notes an evaluation, with its "step"; returns whether it is the best so far."""
        now = [{"step": metrics["step"], **of_one} for of_one in metrics.get("seeds", ())]
        pairs = zip(self.best_of_seeds or now, now, strict=True)
        self.best_of_seeds = [
            new if new["accuracy"] > old["accuracy"] else old for old, new in pairs
        ]
        self.evaluated, self.final = metrics["step"], metrics
        if self.best and metrics["accuracy"] <= self.best["accuracy"]:
            return False
        self.best = metrics
        return True


class Clock:
    """Counts images and the seconds that training them takes, from its construction on.

    Args:
      images: counted before, in earlier processes of the run.
      seconds: counted before.

    Attributes:
      images: trained so far.
      seconds: that it took.
    """

    def __init__(self, images: int = 0, seconds: float = 0.0) -> None:
        self.images = images
        self.seconds = seconds
        self._since = time.perf_counter()

    def lap(self, images: int) -> float:
        """Counts the images trained since the last lap, and returns them per second.

        Call it when the devices are done with them.
        """
        now = time.perf_counter()
        seconds = now - self._since
        self.images += images
        self.seconds += seconds
        self._since = now
        return images / seconds

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What happens within is not counted. The devices must be done with what came before."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._since += time.perf_counter() - began

    @property
    def images_per_second(self) -> float:
        """Over the whole run; 0 before the first lap."""
        return self.images / self.seconds if self.seconds else 0.0
