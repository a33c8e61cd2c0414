"""How XLA is asked to compile what trains a network."""

import jax


def compiler_options() -> dict[str, str]:
    """XLA's options on the default backend, for `jax.jit(..., compiler_options=...)`.

    On the CPU a pass removes the barriers that `jax.checkpoint` puts around what is to be computed
    again, and the next merges it with what was computed first: no memory would be saved.
    """
    if jax.default_backend() == "cpu":
        return {"xla_disable_hlo_passes": "cse_barrier_expander"}
    return {}
