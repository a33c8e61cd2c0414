"""A network in several forms that take turns, as rows of a table."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import jax

from aggnets_jax.benchmark import ceilings
from aggnets_jax.benchmark.memory import backing_off
from aggnets_jax.benchmark.programs import MODES, Program
from aggnets_jax.benchmark.report import Row
from aggnets_jax.benchmark.setting import Form, Setting
from aggnets_jax.benchmark.timing import Times, alternate

_TRACED_STEPS = 3


class Rival(Protocol):
    """Another implementation of a network.

    Attributes:
      name: of it in a table.
      differences: by mode, of its logits from ours.
    """

    name: str
    differences: Mapping[str, float]

    def build(self, setting: Setting, mode: str) -> Program:
        """Makes its program."""


class Subject(NamedTuple):
    """A network that is measured.

    Attributes:
      setting: of it; its form counts for nothing.
      params: trainable scalars.
      macs: multiply-adds for one image.
      rivals: other implementations of it.
    """

    setting: Setting
    params: int
    macs: int
    rivals: Sequence[Rival] = ()


class Built(NamedTuple):
    """Programs that have run once, by the names of their forms.

    Attributes:
      programs: in the order in which they take turns.
      peaks: bytes on a device, the most until each had run once; None where nobody counts.
    """

    programs: dict[str, Program]
    peaks: dict[str, int | None]


def compare(
    subject: Subject,
    mode: str,
    forms: Sequence[Form],
    *,
    repeats: int,
    seconds: float,
    profile: Path | None = None,
) -> list[Row]:
    """Measures a network in several forms, and other implementations of it, in turn.

    Where the memory is too small for a batch, all go on with half of it.

    Args:
      subject: the network.
      mode: of `programs.MODES`.
      forms: of the network; ratios are to the first.
      repeats: see `alternate`.
      seconds: likewise.
      profile: folder for traces of a few steps, or None.

    Returns:
      A row for each form, then for each other implementation.

    Raises:
      UserError: as the mode, or if there is too little memory for any batch.
    """
    setting, rivals = subject.setting, subject.rivals

    def build(batch_size: int) -> Built:
        programs, peaks = {}, {}
        for name, make in _makers(setting.with_batch(batch_size), mode, forms, rivals):
            programs[name] = make()
            if programs[name].warms_up:
                programs[name].run(1)
            peaks[name] = programs[name].peak_bytes()
        return Built(programs, peaks)

    what = f"{setting.model} {mode}"
    (programs, peaks), batch_size = backing_off(build, setting.batch_size, what)
    times = alternate(list(programs.values()), repeats, seconds)
    if profile is not None:
        for name, program in programs.items():
            with jax.profiler.trace(str(profile / f"{setting.model}-{mode}-{name}")):
                program.run(_TRACED_STEPS)
    differences = {rival.name: rival.differences[mode] for rival in rivals}
    rows = []
    for number, (name, program) in enumerate(programs.items()):
        row = Row(
            model=setting.model,
            mode=mode,
            form=name,
            against=next(iter(programs)) if number else None,
            asked_batch=setting.batch_size,
            batch=batch_size,
            image="x".join(map(str, setting.image_shape)),
            dtype=setting.dtype,
            device_peak_mb=_mega(peaks[name]),
            difference=differences.get(name),
        )
        row = _with_times(row, times, number, program)
        row = _with_network(row, program, subject)
        rows.append(_with_program(row, program))
    return rows


def _makers(
    setting: Setting, mode: str, forms: Sequence[Form], rivals: Sequence[Rival]
) -> Iterator[tuple[str, Callable[[], Program]]]:
    """Names, and what makes their programs."""
    for form in forms:
        formed = dataclasses.replace(setting, form=form)
        yield form.name, lambda formed=formed: MODES[mode](formed)
    for rival in rivals:
        yield rival.name, lambda rival=rival: rival.build(setting, mode)


def _with_times(row: Row, times: Times, number: int, program: Program) -> Row:
    step, ratio = times.of(number), times.ratio(number)
    row = dataclasses.replace(
        row,
        images_per_second=program.images and program.images / step.median,
        ms=1e3 * step.median,
        ms_low=1e3 * step.low,
        ms_high=1e3 * step.high,
        repeats=times.seconds.shape[1],
        steps=times.steps[number],
    )
    if number:
        row = dataclasses.replace(
            row, ratio=ratio.median, ratio_low=ratio.low, ratio_high=ratio.high
        )
    return row


def _with_network(row: Row, program: Program, subject: Subject) -> Row:
    """Size of the network, and what the devices do in a second for it, and could do."""
    if not program.passes:
        return row
    row = dataclasses.replace(row, params=subject.params, macs=subject.macs)
    if row.images_per_second is None:
        return row
    done = 2 * subject.macs * program.passes * row.images_per_second / jax.device_count()
    most, printed = ceilings.matmul_flops(row.dtype), ceilings.published(row.dtype)
    return dataclasses.replace(
        row,
        gflop_per_s=done / 1e9,
        matmul_gflop_per_s=most / 1e9,
        mfu=done / most,
        mfu_published=printed and done / printed,
    )


def _with_program(row: Row, program: Program) -> Row:
    """What its compiler says of it."""
    if program.compiled is None:
        return row
    compiled, lower_seconds, compile_seconds = program.compiled
    row = dataclasses.replace(row, lower_s=lower_seconds, compile_s=compile_seconds)
    if compiled is None:
        return row
    memory, costs = compiled.memory_analysis(), _costs(compiled)
    row = dataclasses.replace(
        row,
        argument_mb=memory and _mega(memory.argument_size_in_bytes),
        output_mb=memory and _mega(memory.output_size_in_bytes),
        alias_mb=memory and _mega(memory.alias_size_in_bytes),
        temp_mb=memory and _mega(memory.temp_size_in_bytes),
        xla_gflop=_giga(costs.get("flops")),
        xla_gb=_giga(costs.get("bytes accessed")),
    )
    if row.xla_gb is None or row.images_per_second is None:
        return row
    done, most = 1e3 * row.xla_gb / row.ms, ceilings.copy_bytes() / 1e9
    return dataclasses.replace(row, gb_per_s=done, copy_gb_per_s=most, bandwidth=done / most)


def _costs(compiled: jax.stages.Compiled) -> Mapping[str, float]:
    """XLA's estimate, of the body of a loop as if it ran once."""
    try:
        return compiled.cost_analysis() or {}
    except NotImplementedError:
        return {}


def _mega(count: float | None) -> float | None:
    return None if count is None else count / 1e6


def _giga(count: float | None) -> float | None:
    return None if count is None else count / 1e9
