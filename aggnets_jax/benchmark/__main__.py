"""Measures how fast networks train and evaluate, how long they compile, and what memory they take.

python -m aggnets_jax.benchmark --models=densenet_bc100_k12 --modes=train --forms=plain,default
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aggnets_jax.arguments import check_number, check_whole_number
from aggnets_jax.benchmark import MODES
from aggnets_jax.cli import Parser, exit_code
from aggnets_jax.errors import UserError, unknown
from aggnets_jax.files import local_path

# The rest imports JAX, and so is imported where the flags are parsed.
if TYPE_CHECKING:
    from aggnets_jax.benchmark.contenders import Contender
    from aggnets_jax.benchmark.workload import Workload

_DTYPES = ("float32", "bfloat16")
TORCH = "torch"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parses and checks a command line.

    Raises:
      UserError: for a flag or a value that is not allowed.
    """
    parser = Parser(
        prog="python -m aggnets_jax.benchmark",
        description=__doc__.partition("\n")[0],
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--models", required=True, help="registered networks, with commas between them")
    add("--modes", default="train", help=f"{', '.join(MODES)}; default train")
    add(
        "--forms",
        default="default",
        help="of the networks, in turn: default, plain, native, scan, remat=layer, remat=norm, any"
        " argument, or several joined by +; ratios are to the first",
    )
    add("--model_args", action="append", default=[], help="of all forms: NAME=VALUE,NAME=VALUE")
    add("--num_classes", type=int, help="default that of the family")
    add("--batch_size", type=int, default=64, help="over all devices; default 64")
    add("--image_size", type=int, help="side of the images; default that of the family")
    add("--dtype", default="float32", help="of the computation: float32 or bfloat16")
    add("--repeats", type=int, default=7, help="in which forms take turns; default 7")
    add("--seconds", type=float, default=10, help="for the repeats of each form; default 10")
    add("--steps_per_dispatch", type=int, help="of training; default that of runs")
    add("--against", help="torch, for the same networks in PyTorch; or another network")
    add("--against_forms", help="of torch: eager, compile, channels_last, or joined by +")
    add("--json", help="file to write")
    add("--csv", help="file to write")
    add("--profile", help="folder for profiler traces of a few steps")
    given = parser.parse_args(arguments)
    _check(given)
    return given


def _check(given: argparse.Namespace) -> None:
    from aggnets_jax.benchmark import against_torch
    from aggnets_jax.benchmark.forms import parse_arguments, parse_forms

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


def workload_of(model: str, given: argparse.Namespace) -> Workload:
    """Return the workload of a model.

    Raises:
      UserError: for an unknown model or an image size that is not positive.
    """
    from aggnets_jax.benchmark.workload import Workload
    from aggnets_jax.models import check_image_shape, input_shape
    from aggnets_jax.training.step import default_steps_per_dispatch

    shape = input_shape(model)
    if given.image_size is not None:
        shape = (given.image_size, given.image_size, shape[-1])
    return Workload(
        model=model,
        batch_size=given.batch_size,
        image_shape=check_image_shape(shape),
        arguments=given.model_args,
        num_classes=given.num_classes,
        dtype=given.dtype,
        steps_per_dispatch=given.steps_per_dispatch or default_steps_per_dispatch(),
    )


def contenders_of(workload: Workload, given: argparse.Namespace) -> list[Contender]:
    """Return the forms of a network, and what `--against` adds.

    Raises:
      UserError: if one of them can't be created, or images are too small for it.
    """
    from aggnets_jax.benchmark import against_torch
    from aggnets_jax.benchmark.contenders import forms_of_network

    contenders = forms_of_network(workload, given.forms)
    if given.against == TORCH:
        contenders += against_torch.torch_forms(workload, contenders[0], given.against_forms)
    elif given.against is not None:
        other = dataclasses.replace(workload, model=given.against)
        contenders += forms_of_network(other, given.forms)
    return contenders


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    given = parse(arguments)
    with _no_compilation_cache():
        _measure(given, sys.argv[1:] if arguments is None else arguments)


def _measure(given: argparse.Namespace, words: Sequence[str]) -> None:
    from aggnets_jax.benchmark import rows as rows_lib
    from aggnets_jax.benchmark.contenders import measure

    if given.against == TORCH:
        # By default JAX reserves most of a GPU's memory; PyTorch needs some of it.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    origin = rows_lib.origin(shlex.join(["python", "-m", "aggnets_jax.benchmark", *words]))
    rows: list[rows_lib.Row] = []
    workloads = [workload_of(model, given) for model in given.models]
    # Report all mistakes before anything is measured.
    for workload, contenders in [(each, contenders_of(each, given)) for each in workloads]:
        for mode in given.modes:
            rows += measure(
                contenders,
                workload,
                mode,
                repeats=given.repeats,
                seconds=given.seconds,
                profile=given.profile and Path(given.profile),
            )
            # After each mode, so that an interrupted command leaves its rows.
            if given.json is not None:
                rows_lib.write_json(given.json, rows, origin)
            if given.csv is not None:
                rows_lib.write_csv(given.csv, rows, origin)
    rows_lib.show(rows)


@contextlib.contextmanager
def _no_compilation_cache() -> Iterator[None]:
    """Compile everything anew in this context, because compilation is measured, too."""
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit code: 0, or 2 for a mistake of the user's."""
    return exit_code(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
