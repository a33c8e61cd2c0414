"""Writes state_dicts.json.gz from torchvision and timm, see README.md.

python -m tests.convert.make   (with torch, torchvision and timm installed)
"""

import gzip
import json

import timm
import torch
import torchvision

from tests.convert import published
from tests.models import golden

NETWORKS = [
    "densenet121",
    "densenet169",
    "densenet201",
    "efficientnet_b0",
    "res2net50_26w_4s",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "wide_resnet50_2",
]


def describe(network):
    shapes = {name: list(value.shape) for name, value in network.state_dict().items()}
    weights = golden.state_dict(shapes)
    network.load_state_dict({name: torch.as_tensor(value) for name, value in weights.items()})
    images = torch.as_tensor(published.images()).double().permute(0, 3, 1, 2)
    with torch.no_grad():
        logits = network.double().eval()(images)
    return shapes, logits[:, : published.LOGITS].tolist()


def main():
    found = {}
    for name in NETWORKS:
        networks = {"timm": timm.create_model(name)}
        if hasattr(torchvision.models, name):
            networks["torchvision"] = getattr(torchvision.models, name)()
        described = {dialect: describe(network) for dialect, network in networks.items()}
        groups = []
        for dialect, (shapes, logits) in described.items():
            for group in groups:
                if group["shapes"] == shapes and group["logits"] == logits:
                    group["dialects"].append(dialect)
                    break
            else:
                groups.append({"dialects": [dialect], "shapes": shapes, "logits": logits})
        found[name] = groups
    content = json.dumps(found, separators=(",", ":")).encode()
    published.FILE.write_bytes(gzip.compress(content, mtime=0))


if __name__ == "__main__":
    main()
