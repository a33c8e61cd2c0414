"""How fast training goes, without compilation, evaluation and saving."""

import contextlib
import time
from collections.abc import Iterator


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
