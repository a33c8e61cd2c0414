r"""SeqConv (arXiv 1811.10798), Figure 4: errors in the course of training on ImageNet.

aggnets train --config=configs/seqconv/figure4.py:resnet50 --workdir=runs/resnet50

Drawn: training and validation errors of ResNet-50 beside those of SeqResNet-B22, of ResNet-101
beside SeqResNet-B42; no numbers. The SeqResNets are the rows of 100 epochs of table4.py. The left
figure: aggnets report runs/resnet50 runs/seqresnet_b22

Cost: 1.6e18 to 3.0e18 MACs.

Not in the paper: whose ResNets these are. Here they are trained as the SeqResNets are, and have the
widely used stride of 2 in the 3x3 convolutions of their bottlenecks.
"""

from aggnets_jax.config import recipe


def get_config():
    config = recipe("seqconv_imagenet")
    config.update({"paper": {"source": "SeqConv, Figure 4", "remark": "no errors are printed"}})
    return config


def sweep():
    for network in ("resnet50", "resnet101"):
        yield network, {"model.name": network}
