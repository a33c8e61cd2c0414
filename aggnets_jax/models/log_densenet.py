"""Log-DenseNet: a DenseNet whose layers read only the outputs at distances 1, b, b^2, ...

Paper: Hu et al., "Log-DenseNet: How to Sparsify a DenseNet", arXiv 1711.00002.

    Log-DenseNet V1:  y_l = F_l(concat of y_{l - round(b^i)} for i = 0, 1, ... while b^i <= l)

    y_0   y_1   y_2   y_3   y_4   y_5 ...         b = 2
     |           |     |     '-----+ 1
     |           |     '-----------+ 2            layer 5 reads 4, 3, 1
     |     '-----------------------+ 4

The network is `SparseNet` under the topology `log_dense`. With base 2 the topology is SparseNet's,
numbered differently. With a base below two (`topology_args={"base": 1.5}`) a layer reads more
outputs, up to the DenseNet. F_l is BN-ReLU-conv3x3(k), theta is 1, and the stem has 2k channels, as
in the authors' code; `log_densenet_bc` has the bottleneck and theta = 0.5.

In the paper, links cross the ends of stages, and an output that is read at the next resolution has
a transition of its own. Here links end with their stage, as in SparseNet, and the transition takes
the aggregate.
"""

from functools import partial

from aggnets_jax.models.registry import register_family
from aggnets_jax.models.sparsenet import BC, NUMBERS, sparsenet

for _name, _fields in {"log_densenet": {}, "log_densenet_bc": BC}.items():
    register_family(
        _name,
        partial(sparsenet, topology="log_dense", **_fields),
        pattern=rf"{_name}(?P<depth>\d+)_k(?P<growth_rate>{NUMBERS})",
        paper="Log-DenseNet: How to Sparsify a DenseNet, arXiv 1711.00002",
    )
