"""Run the benchmark that the flags of `aggnets benchmark` describe."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from aggnets_jax.arguments import check_number, check_whole_number
from aggnets_jax.benchmark import MODES
from aggnets_jax.errors import UserError, unknown
from aggnets_jax.files import local_path

# The rest imports JAX, and so is imported where the flags are parsed.
if TYPE_CHECKING:
    from aggnets_jax.benchmark.measure import Contender
    from aggnets_jax.benchmark.setting import Setting

_DTYPES = ("float32", "bfloat16")
TORCH = "torch"


def check(given: argparse.Namespace) -> None:
    """Check the flags, and split those with commas.

    Raises:
      UserError: for a value that is not allowed.
    """
    from aggnets_jax.benchmark import against_torch
    from aggnets_jax.benchmark.setting import parse_arguments, parse_forms

    given.models, given.modes = given.models.split(","), given.modes.split(",")
    for mode in given.modes:
        if mode not in MODES:
            raise unknown("mode", mode, MODES)
    given.forms = parse_forms(given.forms)
    given.model_args = {
        name: value for text in given.model_args for name, value in parse_arguments(text).items()
    }
    if given.dtype not in _DTYPES:
        raise unknown("dtype", given.dtype, _DTYPES)
    check_whole_number("batch_size", given.batch_size, 1, 2**31 - 1)
    check_whole_number("repeats", given.repeats, 1)
    check_number("seconds", given.seconds, 0)
    if given.steps_per_dispatch is not None:
        check_whole_number("steps_per_dispatch", given.steps_per_dispatch, 1)
    for file in (given.json, given.csv):
        if file is not None and not local_path(file).parent.is_dir():
            raise UserError(f"{file} can't be written: it has no folder")
    if given.against_forms is not None and given.against != TORCH:
        raise UserError("--against_forms needs --against=torch")
    if given.against == TORCH:
        against_torch.check_modes(given.modes)
    given.against_forms = given.against_forms and given.against_forms.split(",")


def setting_of(model: str, given: argparse.Namespace) -> Setting:
    """What is measured of a model.

    Raises:
      UserError: for an unknown model, or images of no size.
    """
    from aggnets_jax.benchmark.setting import Setting
    from aggnets_jax.models import check_image_shape, input_shape
    from aggnets_jax.training.step import default_steps_per_dispatch

    shape = input_shape(model)
    if given.image_size is not None:
        shape = (given.image_size, given.image_size, shape[-1])
    default = default_steps_per_dispatch()
    return Setting(
        model=model,
        batch_size=given.batch_size,
        image_shape=check_image_shape(shape),
        arguments=given.model_args,
        num_classes=given.num_classes,
        dtype=given.dtype,
        steps_per_dispatch=given.steps_per_dispatch or default,
    )


def contenders_of(setting: Setting, given: argparse.Namespace) -> list[Contender]:
    """Those that take turns: a network in all forms, and what it is compared with.

    Raises:
      UserError: if one of them can't be made, or gets images that are too small.
    """
    from aggnets_jax.benchmark import against_torch
    from aggnets_jax.benchmark.measure import contenders

    made = contenders(setting, given.forms)
    if given.against == TORCH:
        made += against_torch.contenders(setting, made[0], given.against_forms)
    elif given.against is not None:
        made += contenders(dataclasses.replace(setting, model=given.against), given.forms)
    return made


def run(given: argparse.Namespace) -> None:
    """Measure, print the table, and write it.

    Raises:
      UserError: as `check` and `contenders_of`.
    """
    check(given)
    with _no_compilation_cache():
        _measure(given)


def _measure(given: argparse.Namespace) -> None:
    from aggnets_jax.benchmark import report
    from aggnets_jax.benchmark.measure import compare

    if given.against == TORCH:
        # Left alone JAX takes most of the memory of a GPU at once, of which PyTorch needs some.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    origin = report.origin(given.command)
    rows: list[report.Row] = []
    settings = [setting_of(model, given) for model in given.models]
    # All mistakes come before all measurements.
    for setting, made in [(setting, contenders_of(setting, given)) for setting in settings]:
        for mode in given.modes:
            rows += compare(
                made,
                setting,
                mode,
                repeats=given.repeats,
                seconds=given.seconds,
                profile=given.profile and Path(given.profile),
            )
            # After each, so that what is stopped leaves what it has.
            if given.json is not None:
                report.write_json(given.json, rows, origin)
            if given.csv is not None:
                report.write_csv(given.csv, rows, origin)
    report.show(rows)


@contextlib.contextmanager
def _no_compilation_cache() -> Iterator[None]:
    """Inside of this everything is compiled anew, since that is measured, too."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    before = jax.config.jax_enable_compilation_cache
    try:
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()  # JAX decides once a process whether it uses the cache
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()
