"""How XLA is asked to compile what trains a network, and what it then allocates."""

from typing import Any

import jax


def compiler_options() -> dict[str, str]:
    """XLA's options on the default backend, for `jax.jit(..., compiler_options=...)`.

    On the CPU a pass removes the barriers that `jax.checkpoint` puts around what is to be computed
    again, and the next merges it with what was computed first: no memory would be saved.
    """
    if jax.default_backend() == "cpu":
        return {"xla_disable_hlo_passes": "cse_barrier_expander"}
    return {}


def allocated_bytes(compiled: jax.stages.Compiled) -> int | None:
    """What XLA allocates on a device for a program, arguments and results included."""
    memory = compiled.memory_analysis()
    return memory and (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )


def options_for_once() -> dict[str, int]:
    """The same for a program that runs once: it is compiled in less time rather than to be fast."""
    return {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else {}


def kept_apart(tree: Any) -> Any:
    """What is computed before and behind a layer's output, compiled apart on the CPU.

    XLA:CPU computes sums of outputs again wherever they are read, and with them those of all layers
    before: a step of a residual network of 110 layers takes twice as long.
    """
    return jax.lax.optimization_barrier(tree) if jax.default_backend() == "cpu" else tree
