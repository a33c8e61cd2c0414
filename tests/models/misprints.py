"""Printed numbers that the networks do not have, and networks whose printed size has 10 classes."""

from aggnets_jax import list_models

# Papers print the size of networks for CIFAR with 100 classes, but of these with 10 classes.
# SparseNet's Table 3, left, does so, too, though its errors are on CIFAR-100.
PRINTED_WITH_10 = {
    "densenet400_k12",
    "densenet_bc190_k40",
    "densenet_bc250_k24",
    "ds2next29_8x64d",
    "dsnext29_8x64d",
    "sparsenet_bc1001_k12",
    "resnext29_16x64d",
    "resnext29_8x64d",
    "wrn40_2",
    "wrn40_4",
    *list_models("preact_resnet*"),
    *list_models("sparsenet_sum*"),
    *list_models("mixnet*_k*"),
    *list_models("pyramidnet1*"),
    *list_models("pyramidnet_bottleneck*"),
    *list_models("res2next29_*"),
    *list_models("seres2next29_*"),
    *list_models("resnet*_cifar"),
    *list_models("seqresnet_*k*"),
    *list_models("amoebanet_*_cifar_*"),
    "all_cnn_c",
    "dpn28_10",
    "enasnet_cifar_n6_f36",
    "log_densenet_v2_100_k40",
    "mobilenet_v2_cifar",
    "nasnet_a_cifar_n6_f32",
    "pnasnet_cifar_n3_f48",
    "shufflenet_v2_cifar_w150",
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
    "ds2next29_6x64d": (26_097_956, "the size of ResNeXt-29 8x64d"),
    "dsnext29_6x64d": (26_092_196, "the size of ResNeXt-29 8x64d"),
    "dsres2net50": (25_724_464, "that of ResNet-50; Res2Net-50 alone has 25.7M"),
    "fractalnet20": (33_770_788, "unresolved"),
    "fractalnet40": (76_152_804, "of narrower columns that are not specified"),
    "hcgnet_b": (12_845_501, "12.85M rounded once more"),
    "pyramidnet110_a84": (3_855_054, "rounded down"),
    "pyramidnet110_a270": (28_485_477, "unresolved"),
    "pyramidnet_bottleneck164_a270": (27_216_021, "unresolved"),
    "pyramidnet_imagenet200_a300": (62_152_030, "rounded down"),
    "resnet101": (44_549_160, "rounded up"),
    "resnext29_16x64d": (68_155_210, "rounded down"),
    "seqresnet_b22": (11_859_656, "rounded down"),
    "seres2next29_6x24d_4s": (24_790_490, "unresolved"),
    "seres2next29_6x24d_6s": (37_230_938, "unresolved"),
    "seres2next29_8x25d_4s": (34_334_794, "unresolved"),
    "wide_resnet50_2": (68_883_240, "68.9M in its own paper"),
    "amoebanet_a_cifar_n6_f36": (3_218_266, "the size of ENASNet; 3.2M in its own paper"),
    "aognet_12m": (12_259_099, "of an earlier setting"),
    "aognet_40m": (40_153_004, "of an earlier setting"),
    "condensenet86_k8_16_32": (1_523_684, "the size of the condensed form"),
    "condensenet182_k12_24_48": (14_021_956, "the size of the condensed form"),
    "enasnet_cifar_n6_f128": (51_869_668, "with the auxiliary head"),
    "googlenet_cifar": (6_258_500, "unresolved"),
    "nasnet_a_cifar_n6_f128": (50_010_596, "with the auxiliary head"),
    "nin_cifar": (984_356, "the size of preact_resnet164"),
    "pnasnet_cifar_n6_f128": (52_460_516, "with the auxiliary head and 10 classes"),
    "sknet29_16x32d": (27_905_700, "the nearest of 18 combinations"),
    "sknet101": (48_736_040, "48.9M in its own paper"),
}

# Networks whose size no paper prints: those of torchvision and timm.
ELSEWHERE = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50_dense": 25_557_032,  # that of ResNet-50
    "resnext101_32x8d": 88_791_336,
    "seres2net50_26w_4s": 25_699_120 + 28_088_024 - 25_557_032,  # SE adds what it adds to ResNet-50
    "wide_resnet101_2": 126_886_696,
}

# The same for printed FLOPs.
FLOPS_MISPRINTS = {
    "densenet264": "stages (6, 12, 64, 32)",
    "dpn68": "2.33G",
    "hardnet39ds": "0.43G",
    "hardnet68": "4.25G, rounded to 4.2G here",
    "aognet_12m": "2.11G, 2.19G with norms",
    "aognet_40m": "7.35G, 7.51G with norms",
    "cbam_resnet101": "7.8G, the stride is on the 3x3 convolutions",
    "condensenet182_k12_24_48": "1.62G before condensing",
    "log_densenet_v2_100_k40": "5.47 multiply-adds, two operations each",
    "resnext101_32x4d": "8.0G",
    "seresnet101": "7.8G, the stride is on the 3x3 convolutions",
    "seresnext50_32x4d": "4.2G",
    "seresnext101_32x4d": "8.0G",
    "sknet50": "4.46G",
    "sknet101": "8.45G, rounded to 8.4G here",
}


def rounds_to(number: float, text: str) -> bool:
    """Return whether `text`, such as "4.51M", is the number to as many decimals."""
    digits, unit = text[:-1], {"M": 1e6, "G": 1e9}[text[-1]]
    decimals = len(digits.partition(".")[2])
    return f"{number / unit:.{decimals}f}" == digits
