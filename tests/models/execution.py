"""A network's loss with all that comes of it, to compare ways of computing the same."""

import jax
import jax.numpy as jnp
import numpy as np

from aggnets_jax.training.losses import cross_entropy


def train_pass(model, variables, size, *, batch=4, seed=0, compiled=True):
    """Loss, logits, gradients and running averages of random images in training, as one tree."""
    random = np.random.default_rng(seed)
    images = random.standard_normal((batch, size, size, 3)).astype(
        jax.tree.leaves(variables)[0].dtype
    )
    labels = jnp.asarray(random.integers(0, model.num_classes, batch))

    def loss_fn(params, rest):
        (logits, _), updated = model.apply(
            {"params": params, **rest},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(3)},
        )
        return cross_entropy(logits, labels).mean(), (logits, updated.get("batch_stats", {}))

    rest = {name: value for name, value in variables.items() if name != "params"}
    function = jax.value_and_grad(loss_fn, has_aux=True)
    if compiled:
        function = jax.jit(function, compiler_options={"xla_backend_optimization_level": "0"})
    (loss, (logits, batch_stats)), gradients = function(variables["params"], rest)
    return {"loss": loss, "logits": logits, "batch_stats": batch_stats, "gradients": gradients}
