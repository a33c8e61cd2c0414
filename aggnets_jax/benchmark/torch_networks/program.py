"""Steps of PyTorch networks as programs of the benchmark, and their logits beside ours.

In bfloat16 the networks run under autocast. PyTorch uses as many CPU threads as XLA.
"""

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aggnets_jax.benchmark.program import Compiled, Program
from aggnets_jax.benchmark.torch_networks.networks import create
from aggnets_jax.benchmark.torch_networks.weights import load_variables
from aggnets_jax.benchmark.workload import Workload
from aggnets_jax.training.state import Variables

Step = Callable[[Tensor, Tensor], object]
"""A step on images [B, C, H, W] and labels [B]."""

_COMPARED_IMAGES = 8

torch.set_num_threads(len(os.sched_getaffinity(0)))
torch.backends.cudnn.benchmark = True


def difference(workload: Workload, variables: Variables, mode: str) -> float:
    """Return the largest difference of PyTorch's logits from ours, relative to our largest.

    Both networks have the same weights and images, in float32.

    Args:
      workload: with the network.
      variables: of the network.
      mode: "train" or "eval".
    """
    workload = dataclasses.replace(workload, batch_size=_COMPARED_IMAGES, dtype="float32")
    model, train = workload.create(), mode == "train"

    def apply(variables: Variables, images: jax.Array) -> jax.Array:
        (logits, _), _ = model.apply(
            variables,
            images,
            train=train,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )
        return logits.astype(jnp.float32)

    images = workload.random_batch()["image"]
    with jax.default_matmul_precision("highest"):
        ours = np.asarray(jax.jit(apply)(variables, images))
    module = make_module(workload, variables).train(train)
    with torch.no_grad(), _tf32(False):
        theirs = module(torch_images(images)).cpu().numpy()
    return float(np.abs(ours - theirs).max() / np.abs(ours).max())


def torch_program(form: str, workload: Workload, mode: str, variables: Variables) -> Program:
    """Return the program of a form, for the mode "train" or "eval"."""
    parts = form.split("+")
    layout = torch.channels_last if "channels_last" in parts else torch.contiguous_format
    module = make_module(workload, variables).to(memory_format=layout).train(mode == "train")
    batch = workload.random_batch()
    images = torch_images(batch["image"]).contiguous(memory_format=layout)
    labels = torch.from_numpy(np.array(batch["label"])).long().to(_device())
    forward = torch.compile(module) if "compile" in parts else module
    step = train_step(workload, forward) if mode == "train" else _eval_step(workload, forward)

    def run(steps: int) -> None:
        with _tf32(True):
            for _ in range(steps):
                step(images, labels)
            if images.is_cuda:
                torch.cuda.synchronize()

    program = Program(run, workload.batch_size, passes=3 if mode == "train" else 1)
    if images.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        program.peak_bytes = torch.cuda.max_memory_allocated
    if "compile" in parts:
        began = time.perf_counter()
        run(1)
        program.compiled = Compiled(None, None, time.perf_counter() - began)
    return program


def train_step(workload: Workload, module: nn.Module) -> Step:
    """Return a training step with the optimiser of our step."""
    config = workload.config()
    optimizer = torch.optim.SGD(
        module.parameters(),
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.nesterov,
        fused=True,
    )

    def step(images: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        with _autocast(workload):
            logits = module(images)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return step


def _eval_step(workload: Workload, module: nn.Module) -> Step:
    """Return an evaluation step: sums of losses, and of top-1 and top-5 hits, like ours."""

    @torch.inference_mode()
    def step(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with _autocast(workload):
            logits = module(images)
        logits = logits.float()
        top = logits.topk(min(5, logits.shape[-1])).indices == labels[:, None]
        return F.cross_entropy(logits, labels, reduction="sum"), top[:, 0].sum(), top.sum()

    return step


def make_module(workload: Workload, variables: Variables) -> nn.Module:
    """Return the PyTorch network with our variables, on the device."""
    module = create(
        workload.model, workload.num_classes, input_shape=workload.image_shape, **workload.arguments
    )
    load_variables(module, variables)
    return module.to(_device())


def torch_images(images: jax.Array) -> Tensor:
    """Convert images [B, H, W, C] to PyTorch's [B, C, H, W], on the device."""
    return torch.from_numpy(np.array(images).transpose(0, 3, 1, 2).copy()).to(_device())


def _device() -> str:
    return "cuda" if jax.default_backend() == "gpu" else "cpu"


def _autocast(workload: Workload) -> contextlib.AbstractContextManager:
    return torch.autocast(_device(), torch.bfloat16, enabled=workload.dtype == "bfloat16")


@contextlib.contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 for float32 products on a GPU; XLA allows it by default."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
