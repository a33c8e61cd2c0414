"""`aggnets export`: the classifier of a run as a program."""

import functools
import os
import shutil
import tempfile
from pathlib import Path

import jax
import numpy as np

from aggnets_jax.buckets import is_url
from aggnets_jax.errors import UserError, one_line, unknown
from aggnets_jax.export import FORMATS
from aggnets_jax.export.formats import FUNCTIONS
from aggnets_jax.export.program import Program, make_program
from aggnets_jax.files import (
    AnyPath,
    PathLike,
    any_path,
    explained,
    make_folder,
    plainly_named,
    upload,
    upload_folder,
)
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.runtime.interrupts import cleaning_up
from aggnets_jax.workdir.restore import restore_network

# Largest difference between the logits of the exported program and of the network, relative to the
# largest logit. Rounding alone gives 1e-6 to 1e-5 in float32.
TOLERANCE = 1e-4
# Images of noise for the comparison: a number that is no batch size in any program.
_COMPARED = 3


def _new_path(output: PathLike) -> AnyPath:
    path = any_path(output)
    with explained(f"{output} can't be written"):  # a name that is too long
        if path.exists():
            raise UserError(f"{output} exists already; give a new name")
    return path


def export_network(
    workdir: PathLike,
    form: str,
    output: PathLike,
    *,
    which: str = "latest",
    seed: int | None = None,
    fold: bool = False,
) -> None:
    """Write the classifier of a run as a program, and print how far it agrees with the network.

    The program maps stored images, uint8 [batch, height, width, channels] for any batch, to logits,
    float32 [batch, classes]. The written program is run on images of noise first.

    Args:
      workdir: workdir of the run.
      form: one of `FORMATS`.
      output: new file; a new folder for "savedmodel".
      which: checkpoint, as for `restore_network`.
      seed: seed of the network, for a run with several.
      fold: whether batch normalisations that follow a convolution or a linear layer become a part
        of it.

    Raises:
      UserError: for a missing checkpoint, an unknown format, a run of another task than
        classification, a network with operations that the format lacks, a program with other
        logits, or an output that can't be written.
    """
    if form not in FORMATS:
        raise unknown("format", form, FORMATS)
    place = _new_path(output)
    everywhere = mesh_lib.replicated(mesh_lib.make_mesh())
    restored = restore_network(workdir, which, everywhere)
    program = make_program(restored, seed=seed, fold=fold)
    beside = None if is_url(place) else make_folder(place.parent)
    with (
        explained(f"{output} can't be written"),
        tempfile.TemporaryDirectory(prefix=".export-", dir=beside) as made,
        cleaning_up(functools.partial(shutil.rmtree, made, ignore_errors=True)),
    ):
        with plainly_named(Path(made)) as folder:
            difference = _write(program, form, folder / "program")
        made = Path(made, "program")
        if is_url(place):
            (upload_folder if made.is_dir() else upload)(made, place)  # type: ignore[attr-defined]
        else:
            os.replace(made, place)
    print(
        f"{output} has the network of {workdir} after step {restored.step}; its logits differ by"
        f" {difference:.1e} of the largest from the network's",
        flush=True,
    )


def _write(program: Program, form: str, path: Path) -> float:
    """Write a program, and return the largest difference of its logits, relative to the largest."""
    _, *sides = program.images.shape
    images = np.random.default_rng(0).integers(0, 256, (_COMPARED, *sides), np.uint8)
    try:
        FUNCTIONS[form].write(program, path)
        found = FUNCTIONS[form].run(path, images)
    except (OSError, UserError):
        raise
    except Exception as error:  # of a converter, any
        raise UserError(f"the network has no form as {form}: {one_line(error)}") from error
    expected = np.asarray(jax.jit(program.network)(images))
    largest = max(float(np.abs(expected).max()), np.finfo(np.float32).tiny)
    difference = float(np.abs(found - expected).max()) / largest
    if not difference <= TOLERANCE:
        raise UserError(
            f"the program as {form} does not compute what the network computes: logits differ by"
            f" {difference:.1e} of the largest; allowed: {TOLERANCE}"
        )
    return difference
