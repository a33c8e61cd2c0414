"""Networks, their forms and other implementations of them that take turns, as rows of a table."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from aggnets_jax.benchmark import ceilings
from aggnets_jax.benchmark.memory import backing_off
from aggnets_jax.benchmark.programs import MODES, Program
from aggnets_jax.benchmark.report import Row
from aggnets_jax.benchmark.setting import Form, Setting
from aggnets_jax.benchmark.timing import Times, alternate
from aggnets_jax.models import count

_TRACED_STEPS = 3


class Contender(NamedTuple):
    """One of those that take turns.

    Attributes:
      model: as in a table.
      form: likewise.
      params: trainable scalars.
      macs: multiply-adds for one image.
      build: makes its program, of a mode and a batch size.
      differences: by mode, of its logits from ours, if it is another implementation.
    """

    model: str
    form: str
    params: int
    macs: int
    build: Callable[[str, int], Program]
    differences: Mapping[str, float] = {}


class _Built(NamedTuple):
    """Programs that have run once, and the bytes on a device, at most, until each had."""

    programs: list[Program]
    peaks: list[int | None]


def contenders(setting: Setting, forms: Sequence[Form]) -> list[Contender]:
    """A network in several forms.

    Args:
      setting: of it; its form and batch size count for nothing.
      forms: that it takes.

    Raises:
      UserError: if it can't be made in one of them, or images are too small.
    """
    parts = count(setting.create(), setting.image_shape).values()
    params, macs = (sum(part[i] for part in parts) for i in (0, 1))
    made = []
    for form in forms:
        formed = dataclasses.replace(setting, form=form)
        formed.create()

        def build(mode: str, batch_size: int, formed: Setting = formed) -> Program:
            return MODES[mode](formed.with_batch(batch_size))

        made.append(Contender(setting.model, form.name, params, macs, build))
    return made


def compare(
    contenders: Sequence[Contender],
    setting: Setting,
    mode: str,
    *,
    repeats: int,
    seconds: float,
    profile: Path | None = None,
) -> list[Row]:
    """Measures contenders in turn.

    Where the memory is too small for a batch, all go on with half of it.

    Args:
      contenders: ratios are to the first.
      setting: whose batch size, image shape and dtype are theirs.
      mode: of `programs.MODES`.
      repeats: see `alternate`.
      seconds: likewise.
      profile: folder for traces of a few steps, or None.

    Returns:
      A row for each.

    Raises:
      UserError: as the mode, or if there is too little memory for any batch.
    """

    def build(batch_size: int) -> _Built:
        built = _Built([], [])
        for contender in contenders:
            program = contender.build(mode, batch_size)
            if program.warms_up:
                program.run(1)
            built.programs.append(program)
            built.peaks.append(program.peak_bytes())
        return built

    what = f"{setting.model} {mode}"
    (programs, peaks), batch_size = backing_off(build, setting.batch_size, what)
    times = alternate(programs, repeats, seconds)
    if profile is not None:
        _trace(profile, contenders, mode, programs)
    first, rows = contenders[0], []
    for number, (contender, program) in enumerate(zip(contenders, programs, strict=True)):
        row = Row(
            model=contender.model,
            mode=mode,
            form=contender.form,
            against=f"{first.model} {first.form}" if number else None,
            asked_batch=setting.batch_size,
            batch=batch_size,
            image="x".join(map(str, setting.image_shape)),
            dtype=setting.dtype,
            device_peak_mb=_mega(peaks[number]),
            difference=contender.differences.get(mode),
        )
        row = _with_times(row, times, number, program)
        row = _with_network(row, program, contender)
        rows.append(_with_program(row, program))
    return rows


def _trace(
    folder: Path, contenders: Sequence[Contender], mode: str, programs: Sequence[Program]
) -> None:
    for contender, program in zip(contenders, programs, strict=True):
        name = "-".join([contender.model, mode, contender.form.replace(" ", "_")])
        with jax.profiler.trace(str(folder / name)):
            program.run(_TRACED_STEPS)


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


def _with_network(row: Row, program: Program, contender: Contender) -> Row:
    """Size of the network, and what the devices do in a second for it, and could do."""
    if not program.passes:
        return row
    row = dataclasses.replace(row, params=contender.params, macs=contender.macs)
    if row.images_per_second is None:
        return row
    done = 2 * contender.macs * program.passes * row.images_per_second / jax.device_count()
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
