"""What papers print that the networks do not have, and of which head a printed size is."""

from aggnets_jax import list_models

# Of networks for CIFAR the size with 100 classes is printed, of these that with 10. Table 3, left,
# does so, too, though its errors are those on CIFAR-100.
PRINTED_WITH_10 = {
    "densenet400_k12",
    "densenet_bc190_k40",
    "densenet_bc250_k24",
    "sparsenet_bc1001_k12",
    *list_models("preact_resnet*"),
    *list_models("sparsenet_sum*"),
}

# Printed sizes that are not those of the network: what the network has, and why.
MISPRINTS = {
    "densenet100_k16_32_64": (61_437_700, "stem of 24"),
    "densenet100_k32_64_128": (244_506_020, "stem of 24"),
    "densenet_bc100_k16_32_64": (7_802_964, "stem of 48"),
    "densenet_bc100_k32_64_128": (30_815_556, "stem of 24"),
    "densenet_bc400_k4": (1_158_356, "unexplained; 1.12M with 10 classes"),
    "densenet_bc400_k24": (37_133_956, "the size of depth 1001"),
    "densenet264": (33_337_704, "stages (6, 12, 64, 32)"),
    "sparsenet40_k12": (193_924, "the size of k = 24"),
    "sparsenet100_k32_64_128": (28_725_604, "unresolved"),
    "sparsenet100_k36": (5_645_908, "5.65M rounded once more"),
    "sparsenet_bc100_k12": (373_348, "0.4M written with two decimals"),
    "sparsenet_bc100_k32_64_128": (17_339_780, "unresolved"),
}

# The same for printed FLOPs.
FLOPS_MISPRINTS = {"densenet264": "stages (6, 12, 64, 32)"}


def rounds_to(number: float, text: str) -> bool:
    """Whether `text`, such as "4.51M", is the number to as many decimals."""
    digits, unit = text[:-1], {"M": 1e6, "G": 1e9}[text[-1]]
    decimals = len(digits.partition(".")[2])
    return f"{number / unit:.{decimals}f}" == digits
