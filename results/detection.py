"""Measure the cost of detectors: python results/detection.py KIND.

`roi_align` measures operations, bytes and milliseconds of both forms of RoIAlign on this CPU, for
512 RoIs of an image of 800x1344; `roi_align_tpu` counts them for a v5e, for which libtpu compiles
on any machine. `tpu` compiles the training step of Mask R-CNN for four chips of a v5e, with an
image each. `step` times training steps with 2 images of 320x320 beside the same detector in
PyTorch, one after the other in one process. Results go to results/detection.csv and replace earlier
ones.
"""

import csv
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from aggnets_jax.cli import Parser, exit_code
from aggnets_jax.detection import CONVENTIONS, Detector, create_detector
from aggnets_jax.detection.roi_align import METHODS, pool
from aggnets_jax.detection.training import Objects
from aggnets_jax.layers.convolution import native
from aggnets_jax.runtime.compilation import compiler_options
from aggnets_jax.tables import write_csv

FILE = Path(__file__).with_suffix(".csv")
COLUMNS = ("what", "method", "target", "gflops", "gigabytes", "milliseconds", "temporary_mb")
STRIDES = (4, 8, 16, 32)
SIZE = (800, 1344)
ROIS = 512


def v5e() -> list[Any]:
    """Return the devices of a v5e, of which there need be none."""
    return list(topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices)


def placed(tree: Any, mesh: Mesh, *axes: str) -> Any:
    """Return the shapes of arrays that are divided over axes of a mesh."""
    where = NamedSharding(mesh, PartitionSpec(*axes))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree)


def costs(compiled: jax.stages.Compiled) -> dict[str, str]:
    """Return operations and bytes as XLA counts them, and the memory of temporaries."""
    found = compiled.cost_analysis()
    return {
        "gflops": f"{found['flops'] / 1e9:.1f}",
        "gigabytes": f"{found['bytes accessed'] / 1e9:.2f}",
        "temporary_mb": f"{compiled.memory_analysis().temp_size_in_bytes / 2**20:.0f}",
    }


def best(function: Callable[..., Any], *arguments: Any, repeats: int = 2) -> float:
    """Return the milliseconds of the fastest call, after one that doesn't count."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(1000 * (time.perf_counter() - began))
    return min(times[1:])


def pooling(target: str) -> Iterator[dict[str, Any]]:
    """Yield the costs of RoIAlign on this CPU, or as compiled for a chip of a v5e."""
    random = np.random.default_rng(0)
    maps = [jnp.zeros((SIZE[0] // s, SIZE[1] // s, 256), jnp.float32) for s in STRIDES]
    corner = random.uniform(0, [SIZE[1] - 40, SIZE[0] - 40], (ROIS, 2))
    sides = np.exp(random.uniform(np.log(16), np.log(600), (ROIS, 2)))
    end = np.minimum(corner + sides, [SIZE[1], SIZE[0]])
    rois = jnp.asarray(np.concatenate([corner, end], axis=1), jnp.float32)

    for method in METHODS:

        def forward(maps: Any, rois: jax.Array, method: str = method) -> jax.Array:
            return pool(maps, STRIDES, rois, 7, CONVENTIONS["legacy"], method=method)

        def backward(maps: Any, rois: jax.Array, forward: Any = forward) -> Any:
            return jax.grad(lambda maps: jnp.square(forward(maps, rois)).sum())(maps)

        for name, function in (("forward", forward), ("with gradient", backward)):
            row = {"what": f"roi_align, {name}", "method": method, "target": target}
            if target == "cpu":
                compiled = jax.jit(function).lower(maps, rois).compile()
                row["milliseconds"] = f"{best(compiled, maps, rois):.0f}"
            else:
                shapes = placed((maps, rois), Mesh(v5e()[:1], "data"))
                compiled = jax.jit(function).lower(*shapes).compile()
            yield {**row, **costs(compiled)}


def inputs(batch: int, size: tuple[int, int], objects: int) -> tuple[Any, ...]:
    """Return images, sizes, objects with whole masks, and keys."""
    random = np.random.default_rng(0)
    corner = random.uniform(0, [size[1] - 80, size[0] - 80], (batch, objects, 2))
    boxes = np.concatenate([corner, corner + random.uniform(20, 79, corner.shape)], axis=2)
    y, x = np.mgrid[: size[0], : size[1]]
    left, top, right, bottom = np.moveaxis(boxes, 2, 0)[..., None, None]
    masks = (x >= left) & (x < right) & (y >= top) & (y < bottom)
    labels = random.integers(0, 80, (batch, objects))
    found = Objects(
        jnp.asarray(boxes, jnp.float32),
        jnp.asarray(labels, jnp.int32),
        jnp.ones((batch, objects), bool),
        jnp.asarray(masks, jnp.uint8),
    )
    images = jnp.asarray(random.standard_normal((batch, *size, 3)), jnp.float32)
    sizes = jnp.tile(jnp.array(size), (batch, 1))
    return images, sizes, found, jax.random.key_data(jax.random.split(jax.random.key(0), batch))


def train_step(detector: Detector, optimizer: optax.GradientTransformation) -> Callable[..., Any]:
    """Make the update of a detector: losses, gradients, momentum."""

    def step(
        params: Any, rest: Any, state: Any, images: Any, sizes: Any, objects: Any, keys: Any
    ) -> tuple[Any, Any, jax.Array]:
        keys = jax.random.wrap_key_data(keys)

        def loss(params: Any) -> jax.Array:
            variables = {**rest, "params": params}
            losses = detector.apply(variables, images, sizes, objects, keys, method="losses")
            return sum(losses.values())

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    return step


def for_tpu() -> Iterator[dict[str, Any]]:
    """Yield the costs of a training step that is compiled for four chips."""
    mesh = Mesh(v5e(), "data")
    for method in reversed(METHODS):
        detector = create_detector("mask_rcnn_resnet50_fpn", roi_method=method, dtype=jnp.bfloat16)
        optimizer = optax.sgd(0.005, 0.9)
        given = jax.eval_shape(lambda: inputs(4, SIZE, 100))
        variables = jax.eval_shape(detector.init, jax.random.key(0), *given[:2])
        params = variables.pop("params")
        state = jax.eval_shape(optimizer.init, params)

        step = jax.jit(train_step(detector, optimizer), donate_argnums=(0, 2))
        with native():
            compiled = step.lower(
                *placed((params, variables, state), mesh), *placed(given, mesh, "data")
            ).compile()
        yield {
            "what": "Mask R-CNN ResNet-50, training step, an image of 800x1344 a chip, bfloat16",
            "method": method,
            "target": "v5e:2x2",
            **costs(compiled),
        }


def against_torch() -> Iterator[dict[str, Any]]:
    """Yield the times of training steps of ours and of PyTorch."""
    import torch

    from aggnets_jax.benchmark.torch_networks.mask_rcnn import MaskRCNN, Target
    from aggnets_jax.convert.detectors import detector_to_torch

    given = inputs(2, (320, 320), 6)
    images, sizes, objects, _ = given
    what = "Mask R-CNN ResNet-50, training step, batch 2, 320x320"
    detector = create_detector("mask_rcnn_fpn", "resnet50", 80, conventions="torchvision")
    variables = jax.jit(detector.init)(jax.random.key(0), images, sizes)
    rest = {name: tree for name, tree in variables.items() if name != "params"}
    optimizer = optax.sgd(1e-5, 0.9)
    params = variables["params"]
    state = optimizer.init(params)
    step = jax.jit(train_step(detector, optimizer), compiler_options=compiler_options())
    compiled = step.lower(params, rest, state, *given).compile()
    ours = best(compiled, params, rest, state, *given)
    row = {"what": what, "method": detector.roi_method, "target": "cpu"}
    yield {**row, "milliseconds": f"{ours:.0f}", **costs(compiled)}
    theirs = MaskRCNN(detector).eval()
    weights = detector_to_torch(detector, variables)
    theirs.load_state_dict({k: torch.as_tensor(np.array(v)) for k, v in weights.items()}, False)
    trained = [p for p in theirs.parameters() if p.requires_grad]
    update = torch.optim.SGD(trained, 1e-5, 0.9)
    pictures = torch.as_tensor(np.asarray(images).transpose(0, 3, 1, 2).copy())
    targets = [
        Target(
            torch.as_tensor(np.array(objects.boxes[i])),
            torch.as_tensor(np.array(objects.labels[i])).long() + 1,
            torch.as_tensor(np.array(objects.masks[i])).float(),
        )
        for i in range(2)
    ]

    def in_torch() -> None:
        update.zero_grad()
        sum(theirs.losses(pictures, targets).values()).backward()
        update.step()

    found = best(in_torch)
    yield {"what": what, "method": "PyTorch", "target": "cpu", "milliseconds": f"{found:.0f}"}
    print(f"PyTorch's time / ours: {found / ours:.2f}")


KINDS = {
    "roi_align": partial(pooling, "cpu"),
    "roi_align_tpu": partial(pooling, "v5e"),
    "tpu": for_tpu,
    "step": against_torch,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure costs of a kind, and add each row to the table."""
    parser = Parser(prog="python results/detection.py")
    parser.add_argument("kind", choices=KINDS)
    for row in KINDS[parser.parse_args(arguments).kind]():
        rows = list(csv.DictReader(FILE.open())) if FILE.exists() else []
        key = [row[name] for name in COLUMNS[:3]]
        kept = [each for each in rows if [each[name] for name in COLUMNS[:3]] != key]
        write_csv(FILE, [*kept, {name: row.get(name, "") for name in COLUMNS}])
        print(row, flush=True)


if __name__ == "__main__":
    sys.exit(exit_code(main))
