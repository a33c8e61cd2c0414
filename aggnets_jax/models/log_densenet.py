"""Log-DenseNet: a DenseNet whose layers read the outputs at distances 1, b, b^2, ... only.

Paper: Hu et al., "Log-DenseNet: How to Sparsify a DenseNet", arXiv 1711.00002.

    Log-DenseNet V1:  y_l = F_l(concat of y_{l - round(b^i)} for i = 0, 1, ... while b^i <= l)

    y_0   y_1   y_2   y_3   y_4   y_5 ...         b = 2
     |           |     |     '-----+ 1
     |           |     '-----------+ 2            layer 5 reads 4, 3, 1
     |     '-----------------------+ 4

It is `SparseNet` under the topology `log_dense`, with base 2 but for the numbering the same as its
own; a base below two (`topology_args={"base": 1.5}`) reads more, up to the DenseNet. F_l is
BN-ReLU-conv3x3(k), theta is 1, and the stem has 2k channels, as in the authors' code; with
`log_densenet_bc` it has the bottleneck and theta = 0.5.

Where the paper and this network differ: in the paper links lead across the ends of stages, and an
output that is read at the next resolution gets there by a transition of its own. Here they end with
their stage, as in SparseNet, and a transition takes the aggregate.
"""

from functools import partial

from aggnets_jax.models.registry import register_family
from aggnets_jax.models.sparsenet import sparsenet

for _name, _fields in [
    ("log_densenet", {"bottleneck": False, "compression": 1.0}),
    ("log_densenet_bc", {"bottleneck": True, "compression": 0.5}),
]:
    register_family(
        _name,
        partial(sparsenet, topology="log_dense", **_fields),
        pattern=rf"{_name}(?P<depth>\d+)_k(?P<growth_rate>\d+(?:_\d+)*)",
        paper="Log-DenseNet: How to Sparsify a DenseNet, arXiv 1711.00002",
        printed={},
    )
