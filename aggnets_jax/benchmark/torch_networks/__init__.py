"""The networks in plain PyTorch, to compare their speed and memory with ours.

    module = create("densenet_bc100_k12", 10)
    load_variables(module, variables)
    logits = module(images)  # [batch, channels, height, width]

They are written from the papers, as PyTorch users write networks: eager, convolutions of cuDNN or
oneDNN, concatenations by copying, ReLUs in place, no rematerialisation. Sizes and topologies come
from our networks. With the same weights, logits and gradients are the same in evaluation and in
training. Running variances differ after training: PyTorch keeps unbiased variances, n / (n - 1)
times the variance of the batch.
"""

from aggnets_jax.benchmark.torch_networks.networks import create
from aggnets_jax.benchmark.torch_networks.published import published
from aggnets_jax.benchmark.torch_networks.weights import load_variables

__all__ = ["create", "load_variables", "published"]
