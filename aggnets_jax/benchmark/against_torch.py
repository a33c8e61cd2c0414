"""The same networks in PyTorch, in turn with ours.

A form is `eager`, `compile` (torch.compile) or `channels_last` (the layout of images and kernels),
or several joined by "+". In bfloat16 it is autocast. Threads are as many as XLA has.
"""

import contextlib
import dataclasses
import os
import time
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aggnets_jax.benchmark.measure import Contender
from aggnets_jax.benchmark.programs import Compiled, Program, make_batch, step_config
from aggnets_jax.benchmark.setting import Setting
from aggnets_jax.benchmark.variables import abstract_variables, random_variables
from aggnets_jax.errors import UserError, unknown
from aggnets_jax.training.state import Variables

MODES = ("train", "eval")
_PARTS = ("eager", "compile", "channels_last")
_FORMS = {"cpu": ("eager", "channels_last")}
_FORMS_ELSEWHERE = ("eager", "channels_last", "compile", "compile+channels_last")

# Of logits by the largest of them, of so many images in float32. In training each normalisation
# divides by the deviation of few images, which makes rounding errors larger with depth.
_IMAGES = 8
# By the statistics of a small batch deep networks multiply rounding a thousandfold.
TOLERANCE = {"eval": 1e-4, "train": 2e-2}


def import_torch() -> ModuleType:
    """Returns the torch module.

    Raises:
      UserError: if it is not installed, or has no GPU where JAX has one.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError(
            "--against=torch needs PyTorch, which is not installed: pip install torch, or the extra"
            " aggnets-jax[torch]"
        ) from error
    if jax.default_backend() not in ("cpu", "gpu"):
        raise UserError(f"--against=torch is for CPUs and GPUs, not {jax.default_backend()}")
    if jax.default_backend() == "gpu" and not torch.cuda.is_available():
        raise UserError("--against=torch: JAX has a GPU here, and this PyTorch has none")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.backends.cudnn.benchmark = True
    return torch


def check_modes(modes: Sequence[str]) -> None:
    """Raises `UserError` for a mode that has no program in PyTorch."""
    for mode in modes:
        if mode not in MODES:
            raise UserError(f"--against=torch is for the modes {' and '.join(MODES)}, not {mode}")


def contenders(setting: Setting, ours: Contender, forms: Sequence[str] | None) -> list[Contender]:
    """The network of a setting in forms of PyTorch, once it computes the same as ours.

    Args:
      setting: of the network.
      ours: that it is compared with.
      forms: of PyTorch; default those that are good on the device.

    Raises:
      UserError: without PyTorch, for an unknown form, a network that there is none of in PyTorch,
        or one that computes something else.
    """
    import_torch()
    if forms is None:
        forms = _FORMS.get(jax.default_backend(), _FORMS_ELSEWHERE)
    for form in forms:
        for part in form.split("+"):
            if part not in _PARTS:
                raise unknown("form of torch", part, _PARTS)
    variables = random_variables(abstract_variables(setting.create(), setting.image_shape))
    found = differences(setting, variables)
    for mode, difference in found.items():
        if not difference <= TOLERANCE[mode]:
            raise UserError(
                f"{setting.model} is another function in PyTorch: in mode {mode} logits differ by"
                f" {difference:.1e} of the largest, more than {TOLERANCE[mode]:.0e}"
            )
    made = []
    for form in forms:

        def build(mode: str, batch_size: int, form: str = form) -> Program:
            return _program(form, setting.with_batch(batch_size), mode, variables)

        made.append(ours._replace(form=f"torch {form}", build=build, differences=found))
    return made


def differences(setting: Setting, variables: Variables) -> dict[str, float]:
    """The largest difference of logits, by the largest of ours, in each mode.

    Both have the same weights and images, in float32.
    """
    torch = import_torch()
    small = dataclasses.replace(setting, batch_size=_IMAGES, dtype="float32")
    model = small.create()
    batch = make_batch(model, small)
    images = _images(batch["image"])
    found = {}
    for mode in MODES:
        module = _module(small, variables)  # a new one: training changes the running averages
        with jax.default_matmul_precision("highest"):
            ours = _logits(model, variables, batch["image"], mode)
        with torch.no_grad(), _tf32(False):
            theirs = module.train(mode == "train")(images).cpu().numpy()
        found[mode] = float(np.abs(ours - theirs).max() / np.abs(ours).max())
    return found


def _logits(model: Any, variables: Variables, images: jax.Array, mode: str) -> np.ndarray:
    def apply(variables: Variables, images: jax.Array) -> jax.Array:
        train = mode == "train"
        (logits, _), _ = model.apply(
            variables,
            images,
            train=train,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )
        return logits.astype(jnp.float32)

    return np.asarray(jax.jit(apply)(variables, images))


def _program(form: str, setting: Setting, mode: str, variables: Variables) -> Program:
    torch = import_torch()
    layout = torch.contiguous_format
    if "channels_last" in form.split("+"):
        layout = torch.channels_last
    module = _module(setting, variables).to(memory_format=layout).train(mode == "train")
    batch = make_batch(setting.create(), setting)
    images = _images(batch["image"]).contiguous(memory_format=layout)
    labels = torch.from_numpy(np.array(batch["label"])).long().to(_device())
    compiles = "compile" in form.split("+")
    forward = torch.compile(module) if compiles else module
    step = {"train": _train_step, "eval": _eval_step}[mode](setting, module, forward)

    def run(steps: int) -> None:
        with _tf32(True):
            for _ in range(steps):
                step(images, labels)
            if images.is_cuda:
                torch.cuda.synchronize()

    program = Program(run, setting.batch_size, passes={"train": 3, "eval": 1}[mode])
    if images.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        program.peak_bytes = torch.cuda.max_memory_allocated
    if compiles:
        began = time.perf_counter()
        run(1)
        program.compiled = Compiled(None, None, time.perf_counter() - began)
    return program


def _train_step(setting: Setting, module: Any, forward: Any) -> Any:
    torch = import_torch()
    config = step_config(setting)
    optimizer = torch.optim.SGD(
        module.parameters(),
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.nesterov,
        fused=True,
    )

    def step(images: Any, labels: Any) -> None:
        optimizer.zero_grad(set_to_none=True)
        with _autocast(setting):
            logits = forward(images)
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return step


def _eval_step(setting: Setting, module: Any, forward: Any) -> Any:
    """As ours: the sums over a batch of losses and of hits, the first and the first five."""
    torch = import_torch()
    del module

    @torch.inference_mode()
    def step(images: Any, labels: Any) -> Any:
        with _autocast(setting):
            logits = forward(images)
        logits = logits.float()
        top = logits.topk(min(5, logits.shape[-1])).indices == labels[:, None]
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        return loss, top[:, 0].sum(), top.sum()

    return step


def _module(setting: Setting, variables: Variables) -> Any:
    from aggnets_jax.benchmark.torch_networks import create, load_variables

    module = create(
        setting.model, setting.num_classes, input_shape=setting.image_shape, **setting.arguments
    )
    load_variables(module, variables)
    return module.to(_device())


def _images(images: jax.Array) -> Any:
    """Images [B, H, W, C] as PyTorch's [B, C, H, W]."""
    torch = import_torch()
    return torch.from_numpy(np.array(images).transpose(0, 3, 1, 2).copy()).to(_device())


def _device() -> str:
    return "cuda" if jax.default_backend() == "gpu" else "cpu"


def _autocast(setting: Setting) -> contextlib.AbstractContextManager[Any]:
    torch = import_torch()
    return torch.autocast(_device(), torch.bfloat16, enabled=setting.dtype == "bfloat16")


@contextlib.contextmanager
def _tf32(allowed: bool) -> Any:
    """Whether products of float32 on a GPU may be those of TF32, as they are by XLA's default."""
    torch = import_torch()
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
