"""The networks. Importing this package registers all of them."""

from aggnets_jax.models import (  # noqa: F401
    dpn,
    dsnet,
    efficientnet,
    fractalnet,
    hardnet,
    hcgnet,
    highway,
    log_densenet,
    micro_dense,
    micro_dense_baselines,
    mixnet,
    preact_resnet,
    pyramidnet,
    res2net,
    resnet,
    resnet_variants,
    seqresnet,
    sparsenet,
    wide_resnet,
)
from aggnets_jax.models.flops import Count, count
from aggnets_jax.models.registry import (
    ModelInfo,
    check_image_shape,
    create_configured_model,
    create_model,
    input_shape,
    list_families,
    list_models,
    model_info,
    paper_flops,
)

__all__ = [
    "Count",
    "ModelInfo",
    "check_image_shape",
    "count",
    "create_configured_model",
    "create_model",
    "input_shape",
    "list_families",
    "list_models",
    "model_info",
    "paper_flops",
]
