"""PyTorch networks as contenders of the benchmark. Importing this module needs no PyTorch."""

import dataclasses
from collections.abc import Sequence

import jax

from aggnets_jax.benchmark.contenders import Contender
from aggnets_jax.benchmark.program import Program
from aggnets_jax.benchmark.workload import Workload, abstract_variables, random_variables
from aggnets_jax.errors import UserError, import_optional, unknown

MODES = ("train", "eval")
_PARTS = ("eager", "compile", "channels_last")
_FORMS = {"cpu": ("eager", "channels_last")}
_FORMS_ELSEWHERE = ("eager", "channels_last", "compile", "compile+channels_last")

# Largest allowed difference of logits, relative to the largest logit, in float32. In training,
# deep networks multiply rounding errors a thousandfold: each normalisation divides by the deviation
# of few images.
TOLERANCE = {"eval": 1e-4, "train": 2e-2}


def _check_torch() -> None:
    """Raise `UserError` if PyTorch is not installed, or has no GPU where JAX has one."""
    missing = "--against=torch needs PyTorch: pip install 'aggnets-jax[torch]'"
    torch = import_optional("torch", missing)
    backend = jax.default_backend()
    if backend not in ("cpu", "gpu"):
        raise UserError(f"--against=torch is for CPUs and GPUs, not {backend}")
    if backend == "gpu" and not torch.cuda.is_available():
        raise UserError("--against=torch: JAX has a GPU here, and this PyTorch has none")


def torch_forms(
    workload: Workload, ours: Contender, forms: Sequence[str] | None
) -> list[Contender]:
    """Return the same network in forms of PyTorch, after checking that its logits are the same.

    Args:
      workload: with the network.
      ours: contender to compare with.
      forms: `eager`, `compile` (torch.compile), `channels_last` (layout of images and kernels), or
        several joined by "+"; `None` means the good ones on the device.

    Raises:
      UserError: without PyTorch, for an unknown form, or if PyTorch's network is missing or
        computes another function.
    """
    _check_torch()
    from aggnets_jax.benchmark.torch_networks import program

    if forms is None:
        forms = _FORMS.get(jax.default_backend(), _FORMS_ELSEWHERE)
    for form in forms:
        for part in form.split("+"):
            if part not in _PARTS:
                raise unknown("form of torch", part, _PARTS)
    variables = random_variables(abstract_variables(workload.create(), workload.image_shape))
    differences = {mode: program.difference(workload, variables, mode) for mode in MODES}
    for mode, difference in differences.items():
        if not difference <= TOLERANCE[mode]:
            raise UserError(
                f"{workload.model} is another function in PyTorch: in mode {mode} logits differ by"
                f" {difference:.1e} of the largest, more than {TOLERANCE[mode]:.0e}"
            )
    contenders = []
    for form in forms:

        def build(mode: str, batch_size: int, form: str = form) -> Program:
            sized = dataclasses.replace(workload, batch_size=batch_size)
            return program.torch_program(form, sized, mode, variables)

        contenders.append(ours._replace(form=f"torch {form}", build=build, differences=differences))
    return contenders
