r"""Micro-Dense Nets (arXiv 2004.08796), Table 6: one network with three kinds of blocks.

aggnets train --config=configs/micro_dense/table6.py:micro_dense_c10 \
    --workdir=runs/micro_dense_c10

Printed: errors on CIFAR-10 and CIFAR-100, averages of a number of runs that is not given: ResNeXt
3.70 and 20.95 %, Res2Net 3.49 and 20.45 %, Micro-Dense Net 3.35 and 18.49 %, all with 1.8M
parameters and 0.26G FLOPs. The right of Figure 4 has the curves of these runs.

Cost: 1.2e16 MACs.

Not in the paper: the backbone, the cardinality and the scales, see micro_dense.py and
micro_dense_rivals.py in aggnets_jax/models.
"""

from aggnets_jax.config import recipe

# By row: network, errors on CIFAR-10 and CIFAR-100.
ROWS = {
    "resnext": ("resnext54_16x2d_w64_128_256", 3.70, 20.95),
    "res2net": ("res2net54_2w_16s_w64_128_256", 3.49, 20.45),
    "micro_dense": ("mdnet54_w64_128_256", 3.35, 18.49),
}


def get_config():
    config = recipe("micro_dense_cifar")
    config.update({"paper": {"source": "Micro-Dense, Table 6", "remark": "average of runs"}})
    return config


def sweep():
    for row, (network, *errors) in ROWS.items():
        for classes, error in zip((10, 100), errors, strict=True):
            yield (
                f"{row}_c{classes}",
                {
                    "model.name": network,
                    "data.name": f"cifar{classes}",
                    "paper.error": error,
                },
            )
