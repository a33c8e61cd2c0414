"""The blocks of Micro-Dense Nets."""

from torch import Tensor, nn

from aggnets_jax.benchmark.torch_networks.parts import Stage, concat, concatenated, conv, norm_relu
from aggnets_jax.errors import UserError
from aggnets_jax.layers.micro_dense_blocks import MicroDense


class MicroDenseLayer(nn.Module):
    """conv1x1-BN-ReLU-conv3x3(groups)-BN-ReLU."""

    def __init__(self, inputs: int, features: int, groups: int) -> None:
        super().__init__()
        self.conv1 = conv(inputs, features, 1)
        self.norm1 = nn.BatchNorm2d(features)
        self.conv2 = conv(features, features, 3, groups=groups)
        self.norm2 = nn.BatchNorm2d(features)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width] -> [batch, features, height, width]."""
        x = norm_relu(self.norm1, self.conv1(x))
        return norm_relu(self.norm2, self.conv2(x))


class MicroDenseBlock(nn.Module):
    """BN-conv1x1 (4x4 at stride 2)-BN-ReLU, dense layers, conv1x1 over all of them-BN-ReLU."""

    def __init__(self, inputs: int, features: int, stride: int, block: MicroDense) -> None:
        """Takes channels, the stride, and the numbers of the block.

        Raises:
          UserError: if the layers in it do not concatenate.
        """
        super().__init__()
        if block.aggregation != "concat":
            raise UserError(
                "micro-dense blocks in PyTorch have the aggregation 'concat' only, got"
                f" {block.aggregation!r}"
            )
        compressed, topology = block.compressed(inputs), block.topology
        self.final_relu = block.final_relu
        self.input_norm = nn.BatchNorm2d(inputs)
        self.compress_conv = conv(inputs, compressed, 1 if stride == 1 else 4, stride=stride)
        self.compress_norm = nn.BatchNorm2d(compressed)
        inside = [block.width_and_groups(compressed, n) for n in range(1, topology.depth + 1)]
        *read, joined = concatenated(topology.sources, compressed, [width for width, _ in inside])
        layers = [MicroDenseLayer(n, *each) for n, each in zip(read, inside, strict=True)]
        self.layers = Stage(topology.sources, layers, concat)
        self.output_conv = conv(joined, features, 1)
        self.output_norm = nn.BatchNorm2d(features)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width] -> [batch, features, height / stride, ...]."""
        x = self.compress_conv(self.input_norm(x))
        x = self.output_conv(self.layers(norm_relu(self.compress_norm, x)))
        return norm_relu(self.output_norm, x) if self.final_relu else self.output_norm(x)
