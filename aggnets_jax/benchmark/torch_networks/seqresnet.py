"""SeqResNet, SeqResNet-B and SeqResNeXt: residual networks of sequentially aggregated groups."""

from collections.abc import Sequence

from torch import Tensor, nn

from aggnets_jax.benchmark.torch_networks.parts import NormReLU, concat, conv
from aggnets_jax.connectivity.topology import Topology, make_topology
from aggnets_jax.models import seqresnet as jax_networks

Raw = Sequence[Tensor]
"""Outputs of the groups' last convolutions before normalisation, one map for each group."""


class ConvNormReLU(nn.Module):
    """Convolution-BN-ReLU that also returns the output of the convolution."""

    def __init__(
        self, inputs: int, features: int, kernel_size: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.conv = conv(inputs, features, kernel_size, stride=stride, groups=groups)
        self.norm = NormReLU(features)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, inputs, height, width] -> maps before and after BN-ReLU."""
        raw = self.conv(x)
        return raw, self.norm(raw)


class Group(nn.Module):
    """conv3x3(k)-BN-ReLU, as bottleneck conv1x1(k)-BN-ReLU-conv3x3(k, in subgroups)-BN-ReLU."""

    def __init__(self, inputs: int, k: int, *, bottleneck: bool, cardinality: int) -> None:
        super().__init__()
        if bottleneck:
            self.conv1, self.norm1 = conv(inputs, k, 1), NormReLU(k)
            self.conv2, self.norm2 = conv(k, k, 3, groups=cardinality), NormReLU(k)
        else:
            self.conv, self.norm = conv(inputs, k, 3), NormReLU(k)

    def forward(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """[batch, inputs, height, width] -> [batch, k, height, width] before and after BN-ReLU."""
        *first, last_conv, last_norm = self.children()
        for layer in first:
            x = layer(x)
        raw = last_conv(x) if residual is None else last_conv(x) + residual
        return raw, last_norm(raw)


class SeqConv(nn.Module):
    """A layer of groups that read slices of the input and earlier groups.

    Args:
      topology: connections; outputs 0 to slices - 1 are the slices, and the groups follow.
      inputs: channels of the input.
      slices: of the input.
      groups: their number.
      k: channels of a group.
      bottleneck: whether a group is a bottleneck.
      cardinality: subgroups of its 3x3 convolution.
    """

    def __init__(
        self,
        topology: Topology,
        inputs: int,
        slices: int,
        groups: int,
        k: int,
        *,
        bottleneck: bool,
        cardinality: int,
    ) -> None:
        super().__init__()
        self.slices, self.slice_width = slices, inputs // slices
        self.sources = topology.sources[slices - 1 : slices - 1 + groups]
        widths = [self.slice_width] * slices + [k] * groups
        self.groups = nn.ModuleDict(
            {
                f"layer{i}": Group(
                    sum(widths[s] for s in read), k, bottleneck=bottleneck, cardinality=cardinality
                )
                for i, read in enumerate(self.sources, 1)
            }
        )

    def forward(self, x: Tensor, residual: Raw | None = None) -> tuple[Raw, Tensor]:
        """[batch, inputs, height, width] -> raw maps of the groups, their activated outputs."""
        outputs, raw = list(x.split(self.slice_width, dim=1)), []
        for i, (read, group) in enumerate(zip(self.sources, self.groups.values(), strict=True)):
            everything = read == tuple(range(self.slices))
            joined = x if everything else concat([outputs[source] for source in read])
            before, after = group(joined, None if residual is None else residual[i])
            raw.append(before)
            outputs.append(after)
        return raw, concat(outputs[self.slices :])


class ResidualBlock(nn.Module):
    """Two layers; the raw maps of the input are added to the second layer group by group."""

    def __init__(self, seqconv_a: SeqConv, seqconv_b: SeqConv) -> None:
        super().__init__()
        self.seqconv_a, self.seqconv_b = seqconv_a, seqconv_b

    def forward(self, raw: Raw, x: Tensor) -> tuple[Raw, Tensor]:
        """Raw and activated maps -> raw and activated maps of the same shapes."""
        return self.seqconv_b(self.seqconv_a(x)[1], raw)


class Downsampling(nn.Module):
    """A layer that appends channels, then a grouped convolution that halves the resolution."""

    def __init__(self, extension: SeqConv, downsizing: ConvNormReLU) -> None:
        super().__init__()
        self.extension, self.downsizing = extension, downsizing

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, channels, height, width] -> [batch, more, height / 2, width / 2] twice."""
        return self.downsizing(concat([x, self.extension(x)[1]]))


class SeqResNet(nn.Module):
    """Stem, stages of residual blocks with down-sampling between them, conv1x1, classifier."""

    def __init__(self, network: jax_networks.SeqResNet, image_shape: Sequence[int]) -> None:
        super().__init__()
        self._network, self.imagenet_stem = network, network.imagenet_stem
        self.group_widths, self.stages = network.group_widths, len(network.widths)
        widths = network.widths
        self._add_stem(image_shape[-1])
        for i, blocks in enumerate(network.blocks):
            if i > 0:
                extension = self._layer(i - 1, widths[i] - widths[i - 1])
                self.add_module(f"downsample{i}", Downsampling(extension, self._downsizing(i)))
            layers = {
                f"layer{n}": ResidualBlock(self._layer(i, widths[i]), self._layer(i, widths[i]))
                for n in range(1, blocks + 1)
            }
            self.add_module(f"stage{i + 1}", nn.ModuleDict(layers))
        self.head = ConvNormReLU(widths[-1], widths[-1], 1)
        self.classifier = nn.Linear(widths[-1], network.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, height, width] -> [batch, classes]."""
        if self.imagenet_stem:
            for stem in (self.stem1, self.stem2, self.stem3, self.stem4):
                raw, x = stem(x)
            raw = raw.split(self.group_widths[0], dim=1)
        else:
            raw, x = self.stem_seqconv(self.stem_conv(x)[1])
        for i in range(self.stages):
            if i > 0:
                raw, x = getattr(self, f"downsample{i}")(x)
                raw = raw.split(self.group_widths[i], dim=1)
            for block in getattr(self, f"stage{i + 1}").values():
                raw, x = block(raw, x)
        return self.classifier(self.head(x)[1].mean((2, 3)))

    def _add_stem(self, channels: int) -> None:
        groups = self._network.widths[0] // self._network.group_widths[0]
        inputs = 32 if self.imagenet_stem else 16
        layer = self._seqconv(0, make_topology("dense", groups), inputs, 1, groups)
        if self.imagenet_stem:
            self.stem1 = ConvNormReLU(channels, inputs, 3, stride=2)
            self.stem2 = ConvNormReLU(inputs, inputs, 3)
            self.stem3, self.stem4 = layer, self._downsizing(0)
        else:
            self.stem_conv, self.stem_seqconv = ConvNormReLU(channels, inputs, 3), layer

    def _layer(self, stage: int, features: int) -> SeqConv:
        """Return a layer that reads the features of a stage."""
        width, k = self._network.widths[stage], self._network.group_widths[stage]
        topology = self._network.layer_topologies[stage]
        return self._seqconv(stage, topology, width, width // k, features // k)

    def _seqconv(self, stage: int, topology: Topology, *sizes: int) -> SeqConv:
        """Return a layer with groups like those of a stage; inputs, slices and groups are sizes."""
        network = self._network
        kind = {"bottleneck": network.bottleneck, "cardinality": network.cardinalities[stage]}
        return SeqConv(topology, *sizes, network.group_widths[stage], **kind)

    def _downsizing(self, stage: int) -> ConvNormReLU:
        """Return the grouped convolution that leads into a stage."""
        network = self._network
        width = network.widths[stage]
        groups = width // network.group_widths[stage] * network.cardinalities[stage]
        return ConvNormReLU(width, width, 3, stride=2, groups=groups)
