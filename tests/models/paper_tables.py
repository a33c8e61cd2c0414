"""Tables of the five papers, row by row as printed, with the network that a row is about.

Left out are rows about networks that are not listed under this table. "*" marks a paper's own runs
of other networks, "x" stands for a number that the paper gives and the network is not listed with.
"""

from typing import NamedTuple


class Table(NamedTuple):
    """Rows of a paper's table.

    Attributes:
      columns: columns of the numbers that end a row.
      rows: the printed row, "->", and the network.
    """

    columns: tuple[str, ...]
    rows: str


_CIFAR = ("params", "cifar10", "cifar100")
_IMAGENET = ("params", "imagenet2012", "imagenet2012_top5")

TABLES = {
    "SparseNet, Table 2": Table(
        _CIFAR,
        """
        DenseNet (k=12) 40 1.1M 5.39* 24.79* -> densenet40_k12
        DenseNet (k=12) 100 7.2M 4.28* 20.97* -> densenet100_k12
        DenseNet (k=24) 100 28.3M 4.04* 19.61* -> densenet100_k24
        DenseNet (k=16, 32, 64) 100 61.1M 4.31* 20.6* -> densenet100_k16_32_64
        DenseNet (k=32, 64, 128) 100 241.6M N/A N/A -> densenet100_k32_64_128
        DenseNet-BC (k=24) 250 15.3M 3.65 17.6 -> densenet_bc250_k24
        DenseNet-BC (k=40) 190 25.6M 3.75* 17.53* -> densenet_bc190_k40
        DenseNet-BC (k=16, 32, 64) 100 7.9M 4.02* 19.55* -> densenet_bc100_k16_32_64
        DenseNet-BC (k=32, 64, 128) 100 30.5M 3.92* 18.71* -> densenet_bc100_k32_64_128
        SparseNet (k=12) 40 0.8M x x -> sparsenet40_k12
        SparseNet (k=12) 40 0.8M 5.13 24.65 -> sparsenet40_k24
        SparseNet (k=24) 100 2.5M 4.64 22.41 -> sparsenet100_k24
        SparseNet (k=36) 100 5.7M 4.34 20.50 -> sparsenet100_k36
        SparseNet (k=16, 32, 64) 100 7.2M 4.11 19.49 -> sparsenet100_k16_32_64
        SparseNet (k=32, 64, 128) 100 27.7M 3.88 18.80 -> sparsenet100_k32_64_128
        SparseNet-BC (k=24) 100 1.5M 4.03 22.12 -> sparsenet_bc100_k24
        SparseNet-BC (k=36) 100 3.3M 3.91 20.31 -> sparsenet_bc100_k36
        SparseNet-BC (k=16, 32, 64) 100 4.4M 3.43 19.71 -> sparsenet_bc100_k16_32_64
        SparseNet-BC (k=32, 64, 128) 100 16.7M 3.22 17.71 -> sparsenet_bc100_k32_64_128
        """,
    ),
    "SparseNet, Table 3": Table(
        ("params", "cifar100"),
        """
        ResNet 56 0.59M 27.00 -> preact_resnet56
        ResNet 110 1.15M 24.70 -> preact_resnet110
        ResNet 200 2.07M 23.10 -> preact_resnet200
        ResNet 1001 10.33M 21.42 -> preact_resnet1001
        ResNet 2000 20.62M 22.76 -> preact_resnet2000
        SparseNet[+] 56 0.59M 27.70 -> sparsenet_sum56
        SparseNet[+] 110 1.15M 26.10 -> sparsenet_sum110
        SparseNet[+] 200 2.07M 25.77 -> sparsenet_sum200
        SparseNet[+] 1001 10.33M 22.10 -> sparsenet_sum1001
        SparseNet[+] 2000 20.62M 21.01 -> sparsenet_sum2000
        DenseNet(k=12) 400 117M N/A -> densenet400_k12
        DenseNet-BC(k=24) 400 216.3M N/A -> densenet_bc400_k24
        DenseNet-BC(k=24) 400 216.3M N/A -> densenet_bc1001_k24
        DenseNet-BC(k=4) 400 1.10M 32.94 -> densenet_bc400_k4
        DenseNet-BC(k=4) 1001 6.63M 28.50 -> densenet_bc1001_k4
        SparseNet-BC (k=12) 100 0.40M 27.99 -> sparsenet_bc100_k12
        SparseNet-BC (k=12) 400 1.70M 24.41 -> sparsenet_bc400_k12
        SparseNet-BC (k=12) 1001 4.62M 22.10 -> sparsenet_bc1001_k12
        """,
    ),
    "SparseNet, Table 4": Table(
        ("imagenet2012", "params", "flops", "time"),
        """
        DenseNet-121-32 25.0* 7.98M 5.7G 19.5ms -> densenet121
        DenseNet-169-32 23.6* 14.15M 6.76G 32.0ms -> densenet169
        DenseNet-201-32 22.6* 20.01M 8.63G 42.6ms -> densenet201
        DenseNet-264-32 22.2* 27.21M 11.03G 50.4ms -> densenet264
        SparseNet-121-32 25.6 4.51M 3.46G 13.5ms -> sparsenet121_k32
        SparseNet-169-32 24.2 6.23M 3.74G 18.8ms -> sparsenet169_k32
        SparseNet-201-32 23.1 7.22M 4.13G 22.0ms -> sparsenet201_k32
        SparseNet-201-48 22.1 14.91M 9.19G 43.1ms -> sparsenet201_k48
        """,
    ),
    "SeqConv, Table 3": Table(
        _CIFAR,
        """
        SeqResNet k = 8, r = 4, N = 1 1.2M 4.78 22.65 -> seqresnet_k8_r4_n1
        SeqResNet k = 16, r = 10, N = 1 7.6M 3.97 19.72 -> seqresnet_k16_r10_n1
        SeqResNet-B k = 16, r = 7, N = 1 0.8M 4.3 20.76 -> seqresnet_b_k16_r7_n1
        SeqResNet-B k = 32, r = 12, N = 3 6.0M 3.72 18.51 -> seqresnet_b_k32_r12_n3
        """,
    ),
    "SeqConv, Table 4": Table(
        ("params", "flops", "imagenet2012", "imagenet2012_top5"),
        """
        SeqResNet-B42 25.6M 5.33G 22.06 5.98 -> seqresnet_b42
        SeqResNeXt-24 26.2M 4.32G 21.92 5.82 -> seqresnext24
        SeqResNet-B22 11.8M 2.73G 23.67 6.78 -> seqresnet_b22
        """,
    ),
    "SeqConv, Table 4, *": Table(
        ("params", "flops", "imagenet2012", "imagenet2012_top5"),
        """
        SeqResNet-B22 * 11.8M 2.73G 23.35 6.68 -> seqresnet_b22
        SeqResNet-B42 * 25.6M 5.33G 21.75 5.89 -> seqresnet_b42
        SeqResNeXt-24 * 26.2M 4.32G 21.50 5.73 -> seqresnext24
        """,
    ),
    "SeqConv, Table 5": Table(
        ("params", "cifar10"),
        """
        S1 4 8 1 yes 1.2M 4.78 -> seqresnet_k8_r4_n1
        S2 3 8 {1, 2, 1} no 1.2M 4.90 -> seqresnet_k8_r3_n121_full
        S3 4 16 1 yes 1.3M 4.99 -> seqresnet_k16_r4_n1
        S4 3 16 {1, 2, 2} yes 1.3M 5.15 -> seqresnet_k16_r3_n122
        """,
    ),
    "HCGNet, Table 2": Table(
        ("params", "flops", "cifar10", "cifar100"),
        """
        HCGNet-A1 1.1M 0.2G 3.15 18.13 -> hcgnet_a1
        HCGNet-A2 3.1M 0.5G 2.29 16.54 -> hcgnet_a2
        HCGNet-A3 11.4M 2.0G 2.14 15.96 -> hcgnet_a3
        CondenseNet-182 4.2M 0.5G 3.76 18.47 -> condensenet182_k12_24_48
        LogDenseNetV2 19.0M 11.1G 3.75 18.80 -> log_densenet_v2_100_k40
        ResNeXt-29+SK 27.7M - 3.47 17.33 -> sknet29_16x32d
        DPN-28-10 47.8M - 3.65 20.23 -> dpn28_10
        PNASNet 3.2M - 3.41 19.53 -> pnasnet_cifar_n3_f48
        NASNet-A 3.3M - 3.41 19.70 -> nasnet_a_cifar_n6_f32
        ENASNet 4.6M - 3.54 19.43 -> enasnet_cifar_n6_f36
        AmoebaNet-A 4.6M - 3.34 - -> amoebanet_a_cifar_n6_f36
        AmoebaNet-B 34.9M - 2.98 17.66 -> amoebanet_b_cifar_n6_f128
        NASNet-A 50.9M - - 16.03 -> nasnet_a_cifar_n6_f128
        ENASNet 52.7M - - 16.44 -> enasnet_cifar_n6_f128
        PNASNet 53.0M - - 16.70 -> pnasnet_cifar_n6_f128
        """,
    ),
    "HCGNet, Table 3": Table(
        ("params", "flops", "imagenet2012", "imagenet2012_top5"),
        """
        HCGNet-B 12.9M 2.0G 21.5 5.8 -> hcgnet_b
        HCGNet-C 42.2M 7.1G 19.5 4.8 -> hcgnet_c
        ResNet-101+SE 49.3M 7.6G 22.4 6.2 -> seresnet101
        ResNet-101+CBAM 49.3M 7.6G 21.5 5.7 -> cbam_resnet101
        ResNeXt-50+SE 27.6M 3.8G 21.9 6.0 -> seresnext50_32x4d
        ResNeXt-101 44.2M 7.5G 21.5 5.8 -> resnext101_32x4d
        ResNeXt-101+SE 49.0M 7.5G 21.2 5.7 -> seresnext101_32x4d
        ResNeXt-101+SK 48.9M 8.5G 20.2 - -> sknet101
        WideResNet-18 45.6M 6.7G 25.6 8.2 -> wide_resnet18_2
        WideResNet-18+SE 46.0M 6.7G 24.9 7.7 -> wide_seresnet18_2
        AOGNet-12M 11.9M 2.4G 22.3 6.1 -> aognet_12m
        AOGNet-40M 40.3M 8.9G 19.8 4.9 -> aognet_40m
        """,
    ),
    "Micro-Dense, Table 3": Table(
        ("params (M)", "ratio", "cifar10", "cifar100"),
        """
        Micro-Dense Net-30a64 0.7 1.0x 3.41 20.85 -> mdnet30_a64
        GoogLeNet 3.5 5.0x 7.06 27.10 -> googlenet_cifar
        MobileNet 2.2 3.1x 4.13 - -> mobilenet_v2_cifar
        ShuffleNet 2.5 3.6x 5.83 - -> shufflenet_v2_cifar_w150
        ResNet+ 1.7 2.4x 6.43 - -> resnet110_cifar
        Network in network 1.7 2.4x 5.46 24.33 -> nin_cifar
        FPNASNet 1.7 2.4x 3.99 - -> fpnasnet
        """,
    ),
    "Micro-Dense, Table 3, +": Table(
        ("params (M)", "ratio", "cifar10", "cifar100"),
        "Micro-Dense Net-30a64+ 0.7 1.0x 3.28 19.47 -> mdnet30_a64",
    ),
    "Micro-Dense, Table 4": Table(
        ("params (M)", "ratio", "cifar10", "cifar100"),
        """
        Micro-Dense Net-60a115 4.0 1.0x 2.58 16.92 -> mdnet60_a115
        FPNASNet 5.7 1.4x 3.01 - -> fpnasnet
        NnasNet-A 3.3 0.8x 2.65 - -> nasnet_a_cifar_n6_f32
        """,
    ),
    "Micro-Dense, Table 4, +": Table(
        ("params (M)", "ratio", "cifar10", "cifar100"),
        "Micro-Dense Net-60a115+ 4.0 1.0x 2.16 15.36 -> mdnet60_a115",
    ),
    "Micro-Dense, Table 5": Table(
        ("params (M)", "flops (B)", "accuracy", "accuracy_top5"),
        """
        EfficientNet-B0* 5.3 0.4 76.5 93.0 -> efficientnet_b0
        Micro-Dense-EfficientNet 5.3 0.4 76.8 93.2 -> micro_dense_efficientnet_b0
        NASNet-A (4 @ 1056) 5.3 0.6 74.0 91.6 -> nasnet_a_imagenet_n4_f44
        """,
    ),
    # The caption gives the sizes and FLOPs of all rows.
    "Micro-Dense, Table 6": Table(
        ("cifar10", "cifar100", "params", "flops"),
        """
        ResNeXt 3.70 20.95 1.8M 0.26G -> resnext164_2x42d_w25
        Res2Net 3.49 20.45 1.8M 0.26G -> res2next164_4x8d_4s_w25
        Micro-Dense Net 3.35 18.49 1.8M 0.26G -> micro_dense_resnext164_w25
        """,
    ),
    # The caption gives the size of the networks whose errors are drawn.
    "Micro-Dense, Figure 4": Table(
        ("params",),
        """
        1 layer 0.7M -> mdnet60_a64_n1
        2 layers 0.7M -> mdnet39_a64_n2
        4 layers 0.7M -> mdnet24_a64_n4
        5 layers 0.7M -> mdnet21_a64_n5
        1 layer 0.7M -> mdnet30_a64_n1
        2 layers 0.7M -> mdnet30_a64_n2
        4 layers 0.7M -> mdnet30_a64_n4
        5 layers 0.7M -> mdnet30_a64_n5
        fixed number of channels 0.7M -> mdnet30_a64_fixed
        """,
    ),
    "DSNet, Table 1": Table(
        ("cifar100",),
        """
        ResNet50-dense (0.25x) 26.33 -> resnet50_dense_cifar_w25
        ResNet50-dense x -> resnet50_dense
        DSNet50-a (GN + weight) (0.25x) 25.23 -> dsnet50_cifar_w25_a
        DSNet50 (LN + weight) (0.2x) 24.43 -> dsnet50_cifar_w25_ln
        DSNet50 (BN + weight) (0.25x) 24.90 -> dsnet50_cifar_w25_bn
        DSNet50 (IN + weight) (0.25x) 28.11 -> dsnet50_cifar_w25_in
        DSNet50 (None + weight) (0.25x) 26.26 -> dsnet50_cifar_w25_nonorm
        DSNet50 (GN + no weight) (0.25x) 25.85 -> dsnet50_cifar_w25_noweight
        """,
    ),
    "DSNet, Table 2": Table(
        ("cifar100", "cifar10"),
        """
        ResNet50 (1x) 21.43 4.82 -> resnet50_cifar_w100
        DSNet50 (1x) 19.95 4.54 -> dsnet50_cifar_w100
        DS2Net50 (1x) 19.00 4.33 -> ds2net50_cifar_w100
        ResNet50 (0.25x) 26.13 6.65 -> resnet50_cifar_w25
        DSNet50 (0.25x) 24.12 5.95 -> dsnet50_cifar_w25
        DS2Net50 (0.25x) 23.72 5.77 -> ds2net50_cifar_w25
        ResNet101 (0.25x) 25.00 6.00 -> resnet101_cifar_w25
        DSNet101 (0.25x) 23.94 5.82 -> dsnet101_cifar_w25
        DS2Net101 (0.25x) 23.61 5.68 -> ds2net101_cifar_w25
        """,
    ),
    "DSNet, Table 3": Table(
        ("cifar100",),
        """
        26 [2, 2, 2, 2] ResNet 27.74 -> resnet26_cifar_w25
        26 [2, 2, 2, 2] DSNet 26.80 -> dsnet26_cifar_w25
        26 [2, 2, 2, 2] DS2Net 26.30 -> ds2net26_cifar_w25
        38 [3, 3, 3, 3] ResNet 27.26 -> resnet38_cifar_w25
        38 [3, 3, 3, 3] DSNet 25.59 -> dsnet38_cifar_w25
        38 [3, 3, 3, 3] DS2Net 25.30 -> ds2net38_cifar_w25
        77 [3, 4, 15, 3] ResNet 25.32 -> resnet77_cifar_w25
        77 [3, 4, 15, 3] DSNet 23.95 -> dsnet77_cifar_w25
        77 [3, 4, 15, 3] DS2Net 23.55 -> ds2net77_cifar_w25
        """,
    ),
    "DSNet, Table 4": Table(
        ("cifar100",),
        """
        0.25(WRN) ResNet50 23.51 -> wide_resnet50_2_cifar_w25
        0.25(WRN) DSNet50 22.00 -> wide_dsnet50_2_cifar_w25
        0.25(WRN) DS2Net50 21.58 -> wide_ds2net50_2_cifar_w25
        0.5 ResNet50 23.38 -> resnet50_cifar_w50
        0.5 DSNet50 21.59 -> dsnet50_cifar_w50
        0.5 DS2Net50 21.02 -> ds2net50_cifar_w50
        """,
    ),
    "DSNet, Table 5": Table(
        ("cifar100",),
        """
        0.25 ResNeXt50 23.86 -> resnext50_cifar_w25
        0.5 ResNeXt50 21.16 -> resnext50_cifar_w50
        1.0 ResNeXt50 20.17 -> resnext50_cifar_w100
        0.25 DSNeXt50 22.98 -> dsnext50_cifar_w25
        0.5 DSNeXt50 19.95 -> dsnext50_cifar_w50
        1.0 DSNeXt50 18.58 -> dsnext50_cifar_w100
        0.25 DS2NeXt50 22.58 -> ds2next50_cifar_w25
        0.5 DS2NeXt50 19.51 -> ds2next50_cifar_w50
        1.0 DS2NeXt50 18.24 -> ds2next50_cifar_w100
        """,
    ),
    # The paper's 6x64d has the size of 8x64d: its row is about one of the two.
    "DSNet, Table 6": Table(
        ("params", "cifar100"),
        """
        ResNeXt-29, 8x64d 34.4M 17.77 -> resnext29_8x64d
        ResNeXt-29, 16x64d 68.1M 17.31 -> resnext29_16x64d
        DSWRN-28-10 36.5M 18.33 -> dswrn28_10
        DSNeXt-29, 6x64d 34.4M 16.85 -> dsnext29_6x64d
        DSNeXt-29, 6x64d 34.4M 16.85 -> dsnext29_8x64d
        DS2NeXt-29, 6x64d 34.4M 16.39 -> ds2next29_6x64d
        DS2NeXt-29, 6x64d 34.4M 16.39 -> ds2next29_8x64d
        (ResNeXt-29, 6x64d) - - -> resnext29_6x64d
        ALL-CNN - 33.71 -> all_cnn_c
        Deeply supervised Net - 34.57 -> dsn_cifar
        """,
    ),
    "DSNet, Table 7": Table(
        _IMAGENET,
        """
        ResNet50 25.6M 24.01 7.02 -> resnet50
        ResNet101 44.6M 22.44 6.21 -> resnet101
        ResNet152 60.2M 22.16 6.16 -> resnet152
        WRN-50-2-bottleneck 69.8M 21.9 6.03 -> wide_resnet50_2
        ResNeXt-50, 32x4d 25M 22.2 - -> resnext50_32x4d
        SE-ResNet50 28.1M 23.29 6.62 -> seresnet50
        CBAM-ResNet50 28.1M 22.66 6.31 -> cbam_resnet50
        DSNet50 25.6M 22.49 6.29 -> dsnet50
        DS2Net50 25.6M 22.03 5.93 -> ds2net50
        DSNet with Res2Net blocks 25.6M 21.61 5.83 -> dsres2net50
        """,
    ),
    # Memory and time are in docs/performance.md; the errors of DSNets are those of Table 7.
    "DSNet, Table 9": Table(
        ("imagenet2012",),
        """
        ResNet50 24.01 -> resnet50
        ResNet152 22.16 -> resnet152
        DenseNet264 22.15 -> densenet264
        """,
    ),
}
