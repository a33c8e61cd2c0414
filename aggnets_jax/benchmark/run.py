"""Run the benchmark that the flags of `aggnets benchmark` describe."""

import argparse
import contextlib
import dataclasses
import os
from collections.abc import Iterator

import jax
from jax.experimental.compilation_cache import compilation_cache

from aggnets_jax.arguments import check_number, check_whole_number
from aggnets_jax.benchmark import against_torch, rows
from aggnets_jax.benchmark.against_tf_data import tf_data_forms
from aggnets_jax.benchmark.contenders import Contender, forms_of_network, measure
from aggnets_jax.benchmark.forms import parse_arguments, parse_forms
from aggnets_jax.benchmark.modes import MODES
from aggnets_jax.benchmark.workload import Workload
from aggnets_jax.errors import UserError, unknown
from aggnets_jax.files import local_path
from aggnets_jax.models import check_image_shape, input_shape
from aggnets_jax.runtime.mesh import check_divisible
from aggnets_jax.training.step import default_steps_per_dispatch

TORCH, TF_DATA = "torch", "tf.data"


def run(given: argparse.Namespace) -> None:
    """Measure, print the table, and write it.

    Raises:
      UserError: for flags that are not allowed, networks that can't be created, and a batch that
        the devices can't divide.
    """
    check(given)
    if given.against == TORCH:
        # By default JAX reserves most of a GPU's memory; PyTorch needs some of it.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    with _no_compilation_cache():
        _measure(given)


def check(given: argparse.Namespace) -> None:
    """Check the flags, and split lists at their commas; raise `UserError` for other values."""
    given.models, given.modes = given.models.split(","), given.modes.split(",")
    for mode in given.modes:
        if mode not in MODES:
            raise unknown("mode", mode, MODES)
    given.forms = parse_forms(given.forms)
    given.model_args = {
        name: value for text in given.model_args for name, value in parse_arguments(text).items()
    }
    if given.dtype not in ("float32", "bfloat16"):
        raise unknown("dtype", given.dtype, ("float32", "bfloat16"))
    check_whole_number("batch_size", given.batch_size, 1, 2**31 - 1)
    check_whole_number("repeats", given.repeats, 1)
    check_number("seconds", given.seconds, 0)
    if given.steps_per_dispatch is not None:
        check_whole_number("steps_per_dispatch", given.steps_per_dispatch, 1)
    for file in (given.json, given.csv):
        if file is not None and not local_path(file).parent.is_dir():
            raise UserError(f"{file} can't be written: it has no folder")
        if file is not None and local_path(file).is_dir():
            raise UserError(f"{file} can't be written: it is a folder")
    if given.profile is not None and local_path(given.profile).is_file():
        raise UserError(f"--profile={given.profile} must be a folder, and is a file")
    if given.against_forms is not None and given.against != TORCH:
        raise UserError("--against_forms needs --against=torch")
    for mode in given.modes:
        if given.against == TORCH and mode not in against_torch.MODES:
            allowed = " and ".join(against_torch.MODES)
            raise UserError(f"--against=torch is for the modes {allowed}, not {mode}")
        if given.against == TF_DATA and mode != "input":
            raise UserError(f"--against=tf.data is for the mode input, not {mode}")
    given.against_forms = given.against_forms and given.against_forms.split(",")


def _workload(model: str, given: argparse.Namespace) -> Workload:
    check_divisible("--batch_size", given.batch_size, jax.device_count())
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


def _contenders(workload: Workload, given: argparse.Namespace) -> list[Contender]:
    """Return the forms of a network, and the contenders that `--against` adds."""
    contenders = forms_of_network(workload, given.forms)
    if given.against == TORCH:
        contenders += against_torch.torch_forms(workload, contenders[0], given.against_forms)
    elif given.against == TF_DATA:
        contenders = tf_data_forms(workload, contenders[0])
    elif given.against is not None:
        other = dataclasses.replace(workload, model=given.against)
        contenders += forms_of_network(other, given.forms)
    return contenders


def _measure(given: argparse.Namespace) -> None:
    origin, measured = rows.origin(given.command), []
    workloads = [_workload(model, given) for model in given.models]
    # Report all mistakes before anything is measured.
    for workload, contenders in [(each, _contenders(each, given)) for each in workloads]:
        for mode in given.modes:
            measured += measure(
                contenders, workload, mode, given.repeats, given.seconds, given.profile
            )
            # After each mode, so that an interrupted command leaves its rows.
            if given.json is not None:
                rows.write_json(given.json, measured, origin)
            if given.csv is not None:
                rows.write_csv(given.csv, measured, origin)
    rows.show(measured)


@contextlib.contextmanager
def _no_compilation_cache() -> Iterator[None]:
    """Compile without the cache in this context, because compilation is measured, too."""
    before = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    try:
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()  # JAX decides once a process whether it uses the cache
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()
