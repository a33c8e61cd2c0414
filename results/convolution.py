"""Time the CPU's convolution against XLA's: python results/convolution.py.

Measures forward and backward passes, alternating in one process: the best of a few repeats. Some
shapes are also measured in the body of a loop, for which XLA's CPU code differs. Writes
results/convolution.csv.
"""

import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from aggnets_jax.layers.convolution import convolve
from aggnets_jax.tables import write_csv

# Batch, size, channels, features, kernel size, stride, groups, dilation, and whether in a loop.
SHAPES = [
    (64, 32, 96, 24, 1, 1, 1, 1, False),
    (64, 32, 64, 256, 1, 1, 1, 1, False),
    (64, 32, 64, 128, 1, 2, 1, 1, False),
    (64, 32, 24, 24, 3, 1, 1, 1, False),
    (64, 32, 24, 24, 3, 1, 1, 1, True),
    (64, 32, 160, 12, 3, 1, 1, 1, False),
    (64, 16, 32, 32, 3, 1, 1, 1, False),
    (64, 16, 32, 32, 3, 1, 1, 1, True),
    (64, 32, 16, 32, 3, 2, 1, 1, False),
    (64, 32, 16, 32, 3, 2, 1, 1, True),
    (64, 16, 64, 64, 3, 1, 4, 1, False),
    (64, 32, 96, 24, 3, 1, 4, 1, False),
    (64, 32, 32, 32, 3, 1, 8, 1, False),
    (64, 16, 128, 128, 3, 1, 32, 1, False),
    (64, 32, 64, 64, 3, 2, 4, 1, False),
    (64, 32, 24, 24, 3, 1, 24, 1, False),
    (64, 32, 24, 24, 3, 1, 24, 2, False),
    (64, 16, 64, 64, 5, 1, 64, 1, False),
    (16, 16, 256, 256, 3, 1, 1, 1, False),
    (16, 8, 512, 512, 3, 1, 1, 1, False),
]
# Turns of a loop: XLA unrolls a loop of one turn.
ROUNDS = 2
COLUMNS = (
    "batch",
    "size",
    "channels",
    "features",
    "kernel",
    "stride",
    "groups",
    "dilation",
    "loop",
)


def milliseconds(shape: tuple[int, ...], repeats: int) -> tuple[float, float]:
    """Return the milliseconds of our convolution and of XLA's."""
    batch, size, channels, features, kernel, stride, groups, dilation, loop = shape
    random = np.random.default_rng(0)
    x = jnp.asarray(random.standard_normal((batch, size, size, channels)), jnp.float32)
    kernel_shape = (kernel, kernel, channels // groups, features)
    weights = jnp.asarray(random.standard_normal(kernel_shape), jnp.float32)
    pads = [((kernel - 1) // 2 * dilation,) * 2] * 2

    def gradients(convolution: Callable[..., jax.Array]) -> Callable[..., Any]:
        def run(x: jax.Array, weights: jax.Array) -> Any:
            output, backward = jax.vjp(
                lambda x, weights: convolution(
                    x,
                    weights,
                    (stride, stride),
                    pads,
                    rhs_dilation=(dilation, dilation),
                    dimension_numbers=("NHWC", "HWIO", "NHWC"),
                    feature_group_count=groups,
                ),
                x,
                weights,
            )
            return backward(output)

        if loop:
            return jax.jit(lambda *both: lax.fori_loop(0, ROUNDS, lambda _, a: run(*a), both))
        return jax.jit(run)

    best = []
    functions = [gradients(convolve), gradients(lax.conv_general_dilated)]
    for function in functions:
        jax.block_until_ready(function(x, weights))
    for _ in range(repeats):
        times = []
        for function in functions:
            start = time.perf_counter()
            jax.block_until_ready(function(x, weights))
            times.append(1000 * (time.perf_counter() - start))
        best.append(times)
    ours, native = np.min(best, axis=0) / (ROUNDS if loop else 1)
    return float(ours), float(native)


def main() -> None:
    """Measure all shapes and write the table."""
    hardware = f"{platform.machine()}, {jax.local_device_count()} x {jax.default_backend()}"
    rows = []
    for shape in SHAPES:
        ours, native = milliseconds(shape, repeats=3)
        row = dict(zip(COLUMNS, shape, strict=True))
        row |= {"ours_ms": f"{ours:.1f}", "native_ms": f"{native:.1f}"}
        row["ratio"] = f"{native / ours:.1f}"
        rows.append({**row, "jax": jax.__version__, "hardware": hardware})
        write_csv(Path(__file__).with_suffix(".csv"), rows)
        print(*row.values())


if __name__ == "__main__":
    main()
