"""Programs that take turns, on a clock of the test's."""

import numpy as np
import pytest

from aggnets_jax.benchmark import timing
from aggnets_jax.benchmark.program import Program
from aggnets_jax.benchmark.timing import Times, alternate


@pytest.fixture
def make(monkeypatch):
    """Makes programs of so many seconds a step; what ran is in `make.calls`."""

    class Make:
        def __init__(self):
            self.now = 0.0
            self.calls = []

        def __call__(self, name, seconds, **changes):
            def run(steps):
                self.calls.append((name, steps))
                self.now += seconds * steps

            return Program(run, images=1, passes=1, **changes)

    make = Make()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: make.now)
    monkeypatch.setattr(timing.gc, "collect", lambda: 0)  # seconds, among all that tests keep
    return make


def test_programs_take_turns_and_fill_their_share(make):
    times = alternate([make("a", 0.5), make("b", 0.1)], repeats=4, seconds=8)
    assert make.calls == [("a", 1), ("b", 1), *[("a", 4), ("b", 20)] * 4]
    np.testing.assert_allclose(times.seconds, [[0.5] * 4, [0.1] * 4])
    assert times.steps == [4, 20]
    assert times.ratio(1) == pytest.approx((5, 5, 5))


def test_slow_programs_are_repeated_less_often(make):
    times = alternate([make("a", 1.0), make("b", 20.0)], repeats=9, seconds=100)
    assert times.seconds.shape == (2, 5)
    times = alternate([make("a", 1.0), make("b", 1000.0)], repeats=9, seconds=100)
    assert times.seconds.shape == (2, 3)


def test_the_first_run_counts_of_what_need_not_warm_up(make):
    programs = [make(name, 30.0, warms_up=False) for name in "ab"]
    assert alternate(programs, repeats=5, seconds=10).seconds.shape == (2, 1)
    assert make.calls == [("a", 1), ("b", 1)]
    assert alternate(programs, repeats=5, seconds=70).seconds.shape == (2, 2)


def test_ratios_are_medians_of_each_repeat_s_ratio():
    times = Times(np.array([[1.0, 4.0, 9.0], [1.0, 2.0, 3.0]]), [1, 1])
    assert times.of(0) == (4.0, 2.5, 6.5)
    assert times.ratio(1) == (2.0, 1.5, 2.5)
    assert times.ratio(0) == (1.0, 1.0, 1.0)
