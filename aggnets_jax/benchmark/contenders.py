"""Contenders of a benchmark: forms of a network, or other networks, measured in turn."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from aggnets_jax.benchmark import peak_rates
from aggnets_jax.benchmark.forms import Form
from aggnets_jax.benchmark.memory import backing_off
from aggnets_jax.benchmark.modes import MODES
from aggnets_jax.benchmark.program import Program
from aggnets_jax.benchmark.rows import Row
from aggnets_jax.benchmark.timing import Times, alternate
from aggnets_jax.benchmark.workload import Workload
from aggnets_jax.models import count

_TRACED_STEPS = 3


class Contender(NamedTuple):
    """One of the networks or forms that take turns.

    Attributes:
      model: name of the network in tables.
      form: name of the form in tables.
      params: number of trainable scalars.
      macs: multiply-adds for one image.
      build: makes the program for a mode and a batch size.
      differences: difference of another implementation's logits from ours, by mode.
    """

    model: str
    form: str
    params: int
    macs: int
    build: Callable[[str, int], Program]
    differences: Mapping[str, float] = {}


def forms_of_network(workload: Workload, forms: Sequence[Form]) -> list[Contender]:
    """Return one network in several forms.

    Args:
      workload: the network; its form and batch size are ignored.
      forms: forms of the network.

    Raises:
      UserError: if a form can't be created, or images are too small.
    """
    parts = count(workload.create(), workload.image_shape).values()
    params, macs = (sum(part[i] for part in parts) for i in (0, 1))
    contenders = []
    for form in forms:
        formed = dataclasses.replace(workload, form=form)
        formed.create()

        def build(mode: str, batch_size: int, formed: Workload = formed) -> Program:
            return MODES[mode](dataclasses.replace(formed, batch_size=batch_size))

        contenders.append(Contender(workload.model, form.name, params, macs, build))
    return contenders


def measure(
    contenders: Sequence[Contender],
    workload: Workload,
    mode: str,
    repeats: int,
    seconds: float,
    profile: str | None = None,
) -> list[Row]:
    """Return a row for each contender, measured in turn; halve a batch that memory can't hold.

    Args:
      contenders: networks or forms; ratios are relative to the first.
      workload: batch size, image shape and dtype of all contenders.
      mode: a key of `modes.MODES`.
      repeats: largest number of repeats of each contender, see `timing.alternate`.
      seconds: time for all repeats of a contender.
      profile: folder for traces of a few steps; None for no traces.

    Raises:
      UserError: as the function of the mode, or if there is too little memory for any batch.
    """

    def build(batch_size: int) -> list[tuple[Program, int | None]]:
        """Build programs that have run once, with the peak memory after each."""
        built = []
        for contender in contenders:
            program = contender.build(mode, batch_size)
            if program.warms_up:
                program.run(1)
            built.append((program, program.peak_bytes()))
        return built

    built, batch_size = backing_off(build, workload.batch_size, f"{workload.model} {mode}")
    programs = [program for program, _ in built]
    times = alternate(programs, repeats, seconds)
    if profile is not None:
        for contender, program in zip(contenders, programs, strict=True):
            name = "-".join([contender.model, mode, contender.form.replace(" ", "_")])
            with jax.profiler.trace(str(Path(profile, name))):
                program.run(_TRACED_STEPS)
    shared = {
        "mode": mode,
        "asked_batch": workload.batch_size,
        "batch": batch_size,
        "image": "x".join(map(str, workload.image_shape)),
        "dtype": workload.dtype,
        "repeats": times.seconds.shape[1],
    }
    rows = []
    for number, (contender, (program, peak)) in enumerate(zip(contenders, built, strict=True)):
        row = Row(
            model=contender.model,
            form=contender.form,
            **shared,
            **_time_columns(times, number, program),
            against=f"{contenders[0].model} {contenders[0].form}" if number else None,
            device_peak_mb=_scaled(peak, 1e6),
            difference=contender.differences.get(mode),
        )
        row = dataclasses.replace(row, **_network_columns(row, program, contender))
        rows.append(dataclasses.replace(row, **_compiler_columns(row, program)))
    return rows


def _time_columns(times: Times, number: int, program: Program) -> dict[str, Any]:
    """Return the step time and speed of a program, and its ratio to the first program."""
    step, ratio = times.of(number), times.ratio(number) if number else (None, None, None)
    return {
        "images_per_second": program.images and program.images / step.median,
        **dict(zip(("ms", "ms_low", "ms_high"), (1e3 * s for s in step), strict=True)),
        **dict(zip(("ratio", "ratio_low", "ratio_high"), ratio, strict=True)),
        "steps": times.steps[number],
    }


def _network_columns(row: Row, program: Program, contender: Contender) -> dict[str, Any]:
    """Return the size of the network, and its operations per second beside the peak rates."""
    if not program.passes:
        return {}
    columns = {"params": contender.params, "macs": contender.macs}
    if row.images_per_second is None:
        return columns
    flops = 2 * contender.macs * program.passes * row.images_per_second / jax.device_count()
    peak, printed = peak_rates.matmul_flops(row.dtype), peak_rates.published_flops(row.dtype)
    return columns | {
        "gflop_per_s": flops / 1e9,
        "matmul_gflop_per_s": peak / 1e9,
        "mfu": flops / peak,
        "mfu_published": printed and flops / printed,
    }


def _compiler_columns(row: Row, program: Program) -> dict[str, Any]:
    """Return compile times, and XLA's estimates of memory, operations and bytes."""
    if program.compiled is None:
        return {}
    compiled, lower_seconds, compile_seconds = program.compiled
    columns = {"lower_s": lower_seconds, "compile_s": compile_seconds}
    if compiled is None:
        return columns
    memory = compiled.memory_analysis()
    for kind in ("argument", "output", "alias", "temp"):
        columns[f"{kind}_mb"] = memory and getattr(memory, f"{kind}_size_in_bytes") / 1e6
    try:
        costs = compiled.cost_analysis() or {}  # counts the body of a loop once
    except NotImplementedError:
        costs = {}
    xla_gb = _scaled(costs.get("bytes accessed"), 1e9)
    columns |= {"xla_gflop": _scaled(costs.get("flops"), 1e9), "xla_gb": xla_gb}
    if xla_gb is None or row.images_per_second is None:
        return columns
    rate, peak = 1e3 * xla_gb / row.ms, peak_rates.copy_bytes() / 1e9
    return columns | {"gb_per_s": rate, "copy_gb_per_s": peak, "bandwidth": rate / peak}


def _scaled(count: float | None, unit: float) -> float | None:
    return None if count is None else count / unit
