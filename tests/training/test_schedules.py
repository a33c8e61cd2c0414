"""Schedules against their formulas, in NumPy's float64 and step by step."""

import importlib.util
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax.errors import UserError
from aggnets_jax.training import schedules
from aggnets_jax.training.schedules import (
    Rates,
    cycle_fraction,
    epochs_to_steps,
    low_peak,
    make_schedule,
)
from tests import runs
from tests.patterns import one_line_error

SPEC = importlib.util.spec_from_file_location("plot", runs.ROOT / "docs" / "schedules.py")
PLOT = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(PLOT)


def values(schedule, steps):
    """Return the rates of all steps, computed by one compiled program."""
    return np.asarray(jax.jit(jax.vmap(schedule))(jnp.asarray(steps, jnp.int32)), np.float64)


def agree(actual, expected, lr):
    # The last values of a cosine are below the rounding of the first.
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=4e-7 * lr)


def half_cosine(fraction):
    return (1 + math.cos(math.pi * fraction)) / 2


def test_linear():
    arguments = {"warmup_steps": 4, "start_factor": 0.2, "end_factor": 0.1}
    schedule = make_schedule("linear", 1.0, 14, 2.0, **arguments)
    expected = [0.2, 0.4, 0.6, 0.8, *(1 - 0.09 * step for step in range(10))]
    agree(values(schedule, range(14)), expected, 1.0)
    falls = make_schedule("linear", 1.0, 10, 2.0)
    agree(values(falls, range(10)), [1 - step / 10 for step in range(10)], 1.0)


def test_constant():
    assert (values(make_schedule("constant", 0.3, 10, 2.0), range(10)) == np.float32(0.3)).all()
    rising = make_schedule("constant", 0.3, 10, 2.0, warmup_epochs=2)
    agree(values(rising, range(7)), [0, 0.075, 0.15, 0.225, 0.3, 0.3, 0.3], 0.3)


@pytest.mark.parametrize(
    ("total", "boundaries", "edges"),
    [
        (64_000, (0.5, 0.75), (32_000, 48_000)),  # DSNet on CIFAR
        (234_375, (0.5, 0.75), (117_188, 175_781)),  # DenseNet, 300 epochs of 781.25 batches
        (1_000_900, (0.3, 0.6, 0.9), (300_270, 600_540, 900_810)),  # 100 epochs of ImageNet
        (2**31 - 1, (0.5, 0.75), (2**30, 1_610_612_735)),
        (3, (0.3, 0.4), (1, 1)),
        (2, (0.2, 0.9), (1, 2)),  # the first step has the highest rate
    ],
)
def test_step_divides_by_ten_at_each_boundary(total, boundaries, edges):
    schedule = make_schedule("step", 0.1, total, 781.25, boundaries=boundaries)
    steps = [0, total - 1, *(edge + n for edge in edges for n in (-1, 0, 1))]
    expected = [np.float32(0.1 * 0.1 ** sum(edge <= s for edge in edges)) for s in steps]
    assert values(schedule, steps).tolist() == expected


def test_step_rises_from_a_third_before_its_boundaries():
    boundaries = {"boundaries": (0.5, 0.75), "warmup_steps": 10}
    schedule = make_schedule("step", 0.3, 100, 10.0, **boundaries)
    rise = [0.3 * (1 - (1 - i / 10) * (1 - 1 / 3)) for i in range(10)]
    agree(values(schedule, range(100)), [*rise, *[0.3] * 40, *[0.03] * 25, *[0.003] * 25], 0.3)


@pytest.mark.parametrize(("warmup", "end"), [(0, 0.0), (1, 0.0), (10, 0.1), (199, 0.5)])
def test_cosine_after_a_linear_rise(warmup, end):
    schedule = make_schedule("cosine", 0.2, 200, 10.0, warmup_steps=warmup, end_factor=end)
    rise = [0.2 * i / warmup for i in range(warmup)]
    fall = [half_cosine(i / (200 - warmup)) for i in range(200 - warmup + 1)]
    expected = [*rise, *(0.2 * (end + (1 - end) * f) for f in fall)]
    agree(values(schedule, range(201)), expected, 0.2)


def test_a_run_that_ends_within_the_warmup_only_rises():
    lr = values(make_schedule("cosine", 0.2, 3, 10.0, warmup_epochs=2), range(3))
    agree(lr, [0, 0.01, 0.02], 0.2)
    lr = values(make_schedule("warmup_cosine", 0.2, 3, 10.0, warmup_epochs=2), range(3))
    agree(lr, [0, 0.01 * half_cosine(1 / 3), 0.02 * half_cosine(2 / 3)], 0.2)


@pytest.mark.parametrize(
    ("name", "arguments", "peak"),
    [
        ("constant", {}, None),
        ("cosine", {"warmup_steps": 100}, None),
        ("cosine", {"warmup_epochs": 20}, "0.0995"),  # 199 of 400 steps
        ("warmup_cosine", {"warmup_epochs": 1}, None),
        ("warmup_cosine", {"warmup_steps": 400}, "0.0"),
        ("step", {"warmup_steps": 100}, None),
        ("step", {"boundaries": (0.1,), "warmup_steps": 100}, "0.0"),
        ("sgdr", {"first_cycle_epochs": 20}, None),
    ],
)
def test_a_peak_that_is_never_reached_is_told(name, arguments, peak):
    rates = Rates(make_schedule(name, 0.2, 200, 20.0, **arguments), 200)
    told = low_peak(rates, 0.2)
    assert told is None if peak is None else f"rises to {peak}" in told and "200 steps" in told
    assert "\n" not in str(told)


def test_rates_of_the_log_are_of_the_update_before_it(monkeypatch):
    schedule = make_schedule("cosine", 0.2, 23, 5.0, warmup_steps=4)
    expected = values(schedule, range(23)).tolist()
    for at_once in (100, 7):
        monkeypatch.setattr(schedules, "_RATES", at_once)
        rates = Rates(schedule, 23)
        assert [rates.before(step) for step in range(1, 24)] == pytest.approx(expected)
        assert rates.peak() == pytest.approx(0.2, rel=0.1)


def test_rates_of_a_run_without_an_end_take_no_memory():
    total = 2**31 - 1
    rates = Rates(make_schedule("cosine", 0.2, total, 5.0, warmup_steps=50), total)
    assert (rates.before(1), rates.before(51)) == pytest.approx((0.0, 0.2))
    assert rates.before(total) == pytest.approx(0, abs=1e-6)
    assert low_peak(rates, 0.2) is None


def test_warmup_times_cosine_is_that_of_the_paper():
    total, warmup, highest = 1_000, 100, 0.1
    schedule = make_schedule("warmup_cosine", highest, total, 50.0, warmup_epochs=2)
    expected = []
    for i in range(total + 1):  # equations 15 and 16
        lr_top = highest * i / warmup if i <= warmup else highest
        expected.append(lr_top * (1 + math.cos(math.pi * i / total)) / 2)
    lr = values(schedule, range(total + 1))
    agree(lr, expected, highest)
    assert lr[0] == 0 and lr.max() < 0.098 and lr.argmax() == warmup


def sgdr_of_a_reference_script(lr, epoch, first):
    """HCGNet's: epoch i of cycle T_i of the lengths first, 2 first, 4 first, ..."""
    cycle = int(math.log2(epoch / first + 1))
    return 0.5 * lr * (1 + np.cos(np.pi * (epoch - first * (2**cycle - 1)) / (first * 2**cycle)))


def test_sgdr_every_epoch_over_two_runs():
    # HCGNet-A2 and A3 on CIFAR; 390.625 batches an epoch, so that most epochs end within one.
    epochs, images, batch = 1260, 50_000, 128
    total = round(epochs * images / batch)
    schedule = make_schedule(
        "sgdr", 0.1, total, images / batch, first_cycle_epochs=10, every="epoch", repeats=2
    )
    steps = np.arange(total)
    epoch_of_first_image = steps * batch // images
    expected = [sgdr_of_a_reference_script(0.1, e % 630, 10) for e in range(epochs)]
    agree(values(schedule, steps), np.array(expected)[epoch_of_first_image], 0.1)


@pytest.mark.parametrize(("images", "batch"), [(1_281_167, 400), (1_281_167, 256), (1437, 64)])
def test_epochs_begin_with_the_first_batch_that_begins_in_them(images, batch):
    epochs = 630
    total = round(epochs * images / batch)
    fraction = cycle_fraction(
        total, images / batch, first_cycle_steps=10 * images / batch, every="epoch"
    )
    first = np.array([-(-e * images // batch) for e in range(1, epochs)])
    before, at = values(fraction, first - 1), values(fraction, first)
    assert (before != at).all()
    assert np.flatnonzero(at == 0).tolist() == [e - 1 for e in (10, 30, 70, 150, 310)]


@pytest.mark.parametrize(("first", "multiplier"), [(10, 2.0), (7, 1.0), (3, 1.5), (3906.25, 2.0)])
@pytest.mark.parametrize("repeats", [1, 3])
def test_sgdr_every_step(first, multiplier, repeats):
    total = 30_000 if first > 100 else 300
    schedule = make_schedule(
        "sgdr",
        0.1,
        total,
        50.0,
        first_cycle_steps=first,
        cycle_multiplier=multiplier,
        repeats=repeats,
    )
    expected, begin, length = [], 0.0, first
    for i in range(total):
        if i % (total // repeats) == 0:
            begin, length = i, first
        elif i >= begin + length:
            begin, length = begin + length, length * multiplier
        expected.append(0.1 * half_cosine((i - math.ceil(begin)) / length))
    agree(values(schedule, range(total)), expected, 0.1)


def test_a_cycle_in_epochs_is_one_in_steps():
    in_epochs = make_schedule("sgdr", 0.1, 900, 12.5, first_cycle_epochs=4)
    given = make_schedule("sgdr", 0.1, 900, 12.5, first_cycle_steps=50)
    assert (values(in_epochs, range(900)) == values(given, range(900))).all()
    assert epochs_to_steps(cycle_fraction, {"first_cycle_epochs": 4, "repeats": 2}, 12.5) == {
        "first_cycle_steps": 50,
        "repeats": 2,
    }


def test_long_runs_are_exact():
    total, last = 2**31 - 1, 2**31 - 2
    sgdr = make_schedule("sgdr", 1.0, total, 1e6, first_cycle_steps=2**22)
    begins = 2**22 * (2**8 - 1)  # of a cycle of 2**30 steps
    next_begins = begins + 2**30
    fractions = [1 - 2**-29, 0, 0.5, 1, 0, (last - next_begins) / 2**31]
    steps = [begins - 1, begins, begins + 2**29, next_begins - 1, next_begins, last]
    agree(values(sgdr, steps), list(map(half_cosine, fractions)), 1.0)
    cosine = make_schedule("cosine", 1.0, total, 1e6, warmup_steps=2**30)
    expected = [0.5, 1, half_cosine(2**29 / (2**30 - 1)), 0]
    agree(values(cosine, [2**29, 2**30, 2**30 + 2**29, last]), expected, 1.0)
    epochs = cycle_fraction(total, 100_000.5, first_cycle_steps=1_000_005, every="epoch")
    begins = 10 * (2**11 - 1)  # epoch in which the twelfth cycle begins
    first = math.ceil(begins * 100_000.5)
    assert values(epochs, [first - 1, first]).tolist() == [np.float32(1 - 1 / 10 / 2**10), 0]


def test_runs_shorter_than_their_parts_still_run():
    for every in ("step", "epoch"):
        schedule = make_schedule(
            "sgdr", 0.1, 2, 0.75, first_cycle_epochs=10, every=every, repeats=2
        )
        assert np.isfinite(values(schedule, range(3))).all()
        assert values(schedule, [0]) == np.float32(0.1)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("cosine", {"warmup": 1}, "nearest: warmup_steps"),
        ("cosine", {"warmup_epoch": 1}, "has no argument"),
        ("cosine", {"warmup_steps": -1}, "from 0 to"),
        ("cosine", {"warmup_steps": float("inf")}, "from 0 to"),
        ("cosine", {"warmup_epochs": 1, "warmup_steps": 1}, "not both"),
        ("cosine", {"warmup_epochs": "five"}, "warmup_epochs must be a number"),
        (
            "cosine",
            {"warmup_epochs": 0.001},
            "is less than half a step: an epoch has 50 steps",
        ),
        ("cosine", {"end_factor": float("nan")}, "from 0 to 1"),
        ("cosine", {"end_epochs": 1}, "schedule 'cosine' has no argument 'end_epochs'"),
        ("warmup_cosine", {}, "needs the argument 'warmup_steps'"),
        ("warmup_cosine", {"warmup_epochs": 1e9}, "from 0 to"),
        ("step", {"boundaries": (0.5, 0.2)}, "rising fractions"),
        ("step", {"boundaries": (150,)}, "rising fractions"),
        ("step", {"boundaries": 0.5}, "must be"),
        ("step", {"boundaries": ("a",)}, "must be"),
        ("step", {"factor": -3.0}, "from 0 to 1"),
        ("step", {"lr": 1.0}, "has no argument"),
        ("sgdr", {}, "needs the argument 'first_cycle_steps'"),
        ("sgdr", {"first_cycle_steps": 0}, "from 1 to"),
        ("sgdr", {"first_cycle_epochs": 0.01}, "from 1 to"),
        ("sgdr", {"first_cycle_steps": True}, "must be float"),
        ("sgdr", {"first_cycle_steps": 10, "cycle_multiplier": float("inf")}, "from 1 to 100"),
        ("sgdr", {"first_cycle_steps": 10, "repeats": 0}, "repeats must be a whole number"),
        ("sgdr", {"first_cycle_steps": 10, "repeats": 1.0}, "must be int"),
        ("sgdr", {"first_cycle_steps": 10, "every": "batch"}, "unknown value of every 'batch'"),
        ("sgdr", {"first_cycle_epochs": 2.5, "every": "epoch"}, "whole number of epochs, it has 2"),
        ("sgdr", {"first_cycle_steps": 1, "cycle_multiplier": 1}, "more than 100000 cycles"),
        ("cos", {}, "unknown schedule 'cos'"),
    ],
)
def test_what_schedules_refuse(name, arguments, message):
    assert message in one_line_error(make_schedule, name, 0.1, 200_000, 50.0, **arguments)


def at_boundaries(lr, *epochs):
    return lambda at: lr * 0.1 ** np.sum([at >= e for e in epochs], axis=0)


# The formulas of the papers, of epochs that need not be whole numbers.
PRINTED = {
    "SparseNet and SeqConv, CIFAR": at_boundaries(0.1, 150, 225),
    "DSNet, ImageNet": at_boundaries(0.05, 30, 60, 90),
    "Micro-Dense Nets, 20 epochs of warm-up": lambda at: (
        np.where(at <= 20, 0.1 * at / 20, 0.1) * (1 + np.cos(np.pi * at / 300)) / 2
    ),
    "HCGNet-A1, CIFAR": lambda at: [
        sgdr_of_a_reference_script(0.1, epoch, 10) for epoch in np.floor(at)
    ],
    "HCGNet-A2 and A3, CIFAR": lambda at: [
        sgdr_of_a_reference_script(0.1, epoch % 630, 10) for epoch in np.floor(at)
    ],
    "Linear warm-up, then half a cosine": lambda at: np.where(
        at < 5, 0.1 * at / 5, 0.05 * (1 + np.cos(np.pi * (at - 5) / 85))
    ),
}


def test_the_plot_of_the_documentation_shows_the_formulas(tmp_path):
    figure = PLOT.figure()
    lines = {axes.get_title(): axes.get_lines()[0] for axes in figure.axes}
    assert lines.keys() == PRINTED.keys()
    for title, line in lines.items():
        at, lr = line.get_data()
        assert len(at) == 3000 and at[0] == 0
        # The ends of a warm-up, and of a run, are at the nearest whole step: half a step's change.
        rounding = 4e-6 if "warm-up" in title else 1e-7
        np.testing.assert_allclose(lr, PRINTED[title](at), rtol=1e-5, atol=rounding, err_msg=title)
    figure.savefig(tmp_path / "schedules.png")
    assert (tmp_path / "schedules.png").stat().st_size > 10_000
    assert "schedules.png" in (runs.ROOT / "docs" / "training.md").read_text()


def test_epochs_that_no_table_holds_are_refused():
    with pytest.raises(UserError, match="more than 100000 epochs"):
        cycle_fraction(200_000, 1.5, first_cycle_steps=3, every="epoch")
