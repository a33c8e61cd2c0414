"""The networks in plain PyTorch, to compare their speed and memory with ours.

    module = create("densenet_bc100_k12", 10)
    load_variables(module, variables)
    logits = module(images)  # [batch, channels, height, width]

They are written from the papers, as for use with PyTorch alone: eager, convolutions of cuDNN or
oneDNN, concatenations by copying, ReLUs in place, nothing recomputed. Of our networks they take the
numbers, and who reads whom. With the same weights the logits and their gradients are the same, in
evaluation and in training; running variances are not, once trained, since PyTorch keeps unbiased
ones, n / (n - 1) times those of the batch.
"""

from aggnets_jax.benchmark.torch_networks.networks import create
from aggnets_jax.benchmark.torch_networks.published import published
from aggnets_jax.benchmark.torch_networks.weights import load_variables

__all__ = ["create", "load_variables", "published"]
