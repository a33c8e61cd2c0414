"""A network of each family that trains in seconds, and the size of its images."""

_CONCAT = {"depth": 10, "growth_rate": 4}
_CONCAT_BC = {"depth": 16, "growth_rate": 4}
_CONCAT_IMAGENET = {"stage_depths": (2, 3), "growth_rate": 4, "stem_features": 8}
_RESIDUAL = {"stage_depths": (3, 4), "width": 25}
_GROUPED = {**_RESIDUAL, "groups": 2, "base_width": 16}
_SPLIT = {**_RESIDUAL, "base_width": 8, "scale": 3}
_SPLIT_GROUPED = {**_SPLIT, "groups": 2}
_SEQUENTIAL = {"group_width": 8, "widening": 1, "blocks": 1}
_SEQUENTIAL_IMAGENET = {"width": 16, "blocks": 1, "group_width": 8}

# Arguments and image size by family.
TINY: dict[str, tuple[dict, int]] = {
    **{name: (_CONCAT, 8) for name in ("densenet", "sparsenet")},
    **{name: (_CONCAT_BC, 8) for name in ("densenet_bc", "sparsenet_bc")},
    **{name: (_CONCAT_IMAGENET, 32) for name in ("densenet_imagenet", "sparsenet_imagenet")},
    **{name: ({"depth": 20}, 8) for name in ("preact_resnet", "sparsenet_sum")},
    "hcgnet": ({"modules": (1, 3), "growth_rate": 4}, 8),
    "hcgnet_imagenet": ({"modules": (2, 3), "growth_rate": 4, "stem_features": 8}, 32),
    **{
        name: (_RESIDUAL, 16)
        for name in (
            "resnet_cifar",
            "resnet_dense_cifar",
            "dsnet_cifar",
            "dsnet_cifar_a",
            "dsnet_cifar_bn",
            "dsnet_cifar_in",
            "dsnet_cifar_ln",
            "dsnet_cifar_nonorm",
            "dsnet_cifar_noweight",
            "ds2net_cifar",
            "wide_resnet_cifar",
            "wide_dsnet_cifar",
            "wide_ds2net_cifar",
        )
    },
    **{
        name: (_RESIDUAL, 32)
        for name in (
            "resnet",
            "resnet_dense",
            "dsnet",
            "ds2net",
            "seresnet",
            "cbam_resnet",
            "wide_resnet",
            "wide_dsnet",
            "wide_ds2net",
        )
    },
    **{
        f"{prefix}next{suffix}": (_GROUPED, size)
        for prefix in ("res", "ds", "ds2")
        for suffix, size in (("", 32), ("_cifar", 16), ("_three_stages", 16))
    },
    "wrn": ({"depth": 16, "widening": 1}, 16),
    "dswrn": ({"depth": 16, "widening": 1}, 16),
    **{name: (_SPLIT, 32) for name in ("res2net", "seres2net", "dsres2net")},
    **{name: (_SPLIT_GROUPED, 32) for name in ("res2next", "seres2next")},
    **{name: (_SPLIT_GROUPED, 16) for name in ("res2next_three_stages", "seres2next_three_stages")},
    "micro_dense_resnext": ({"depth": 20, "width": 25}, 16),
    "mdnet": ({"depth": 6, "alpha": 8}, 16),
    "pyramidnet": ({"depth": 14, "alpha": 8}, 16),
    "pyramidnet_bottleneck": ({"depth": 20, "alpha": 8}, 16),
    "pyramidnet_imagenet": ({"depth": 50, "alpha": 8}, 32),
    "efficientnet_b0": ({}, 32),
    "micro_dense_efficientnet_b0": ({}, 32),
    **{name: (_SEQUENTIAL, 8) for name in ("seqresnet", "seqresnet_b")},
    "seqresnext": ({**_SEQUENTIAL, "cardinality": 2}, 8),
    "seqresnet_b_imagenet": (_SEQUENTIAL_IMAGENET, 64),
    "seqresnext_imagenet": ({**_SEQUENTIAL_IMAGENET, "cardinality": 2}, 64),
    "resnet_three_stages": ({"depth": 14}, 8),
    "log_densenet": (_CONCAT, 8),
    "log_densenet_bc": (_CONCAT_BC, 8),
    "mixnet": ({"depth": 16, "k1": 4, "k2": 4}, 8),
    "mixnet_imagenet": ({"stage_depths": (2, 3), "k1": 4, "k2": 4, "stem_features": 8}, 32),
    "dpn": (
        {
            "depth": 68,
            "stage_depths": (2, 3),
            "growth_rate": 8,
            "width": 8,
            "groups": 2,
            "residual": 16,
            "stem_features": 8,
        },
        32,
    ),
    "fractalnet": ({"stage_depths": (3, 3), "widths": (8, 16)}, 8),
    "highway": ({"stage_depths": (3, 3), "widths": (8, 16)}, 8),
    "hardnet": (
        {
            "depth": 68,
            "stage_depths": (4, 4),
            "growth_rate": 4,
            "features": (16, 16),
            "downsampled": (True, False),
            "stem_features": (8, 8),
        },
        32,
    ),
    "seresnext": (_GROUPED, 32),
    "wide_seresnet": ({"depth": 18, "stage_depths": (2, 2), "width": 25, "base_width": 128}, 32),
    "sknet": (_GROUPED, 32),
    "sknet_three_stages": (_GROUPED, 16),
    **{name: ({}, 16) for name in ("googlenet_cifar", "mobilenet_v2_cifar")},
    **{name: ({}, 16) for name in ("nin_cifar", "all_cnn_c", "dsn_cifar", "shufflenet_v2_cifar")},
    "fpnasnet": ({}, 32),
    "wide_dpn": ({"depth": 16, "widening": 5}, 8),
    "condensenet": ({"stage_depths": (2, 3), "growth_rate": 4}, 8),
    "log_densenet_v2": ({"depth": 13, "growth_rate": 4}, 8),
    **{
        name: ({"num_cells": 1, "features": 4}, 8)
        for name in (
            "nasnet_a_cifar",
            "amoebanet_a_cifar",
            "amoebanet_b_cifar",
            "pnasnet_cifar",
            "pnasnet_cifar_nao",
            "enasnet_cifar",
            "enasnet_cifar_nao",
        )
    },
    "nasnet_a_imagenet": ({"num_cells": 1, "features": 8}, 32),
    "aognet": ({"stem_features": 4, "widths": (8, 8, 16, 16), "blocks": (1, 1, 1, 1)}, 32),
}
