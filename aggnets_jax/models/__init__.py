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
    micro_dense_rivals,
    mixnet,
    preact_resnet,
    pyramidnet,
    res2net,
    resnet,
    resnet_attention,
    resnet_small,
    seqresnet,
    sparsenet,
    wide_resnet,
)
from aggnets_jax.models.counting import Count, count
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
