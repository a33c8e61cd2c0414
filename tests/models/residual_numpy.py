"""Layers and residual networks in NumPy, written out from the equations."""

import dataclasses

import numpy as np


@dataclasses.dataclass
class Part:
    """The parameters and running averages of a part of a network."""

    params: dict
    stats: dict
    train: bool = False

    def __getitem__(self, name):
        return Part(self.params.get(name, {}), self.stats.get(name, {}), self.train)

    def __contains__(self, name):
        return name in self.params


def whole(variables, train=False):
    return Part(variables["params"], variables.get("batch_stats", {}), train)


def relu(x):
    return np.maximum(x, 0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def convolve(x, kernel, stride=1, groups=1, dilation=1):
    """Convolves images with zeros around them: an odd kernel keeps their size at stride 1."""
    kernel = np.asarray(kernel)
    reach = dilation * (kernel.shape[0] - 1)
    x = np.pad(x, ((0, 0), (reach // 2, reach // 2), (reach // 2, reach // 2), (0, 0)))
    height, width = x.shape[1] - reach, x.shape[2] - reach

    def one_group(x, kernel):
        return sum(
            x[:, i : i + height : stride, j : j + width : stride] @ kernel[k, m]
            for k, i in enumerate(range(0, reach + 1, dilation))
            for m, j in enumerate(range(0, reach + 1, dilation))
        )

    xs, kernels = np.split(x, groups, axis=-1), np.split(kernel, groups, axis=-1)
    return np.concatenate([*map(one_group, xs, kernels)], axis=-1)


def conv(part, x, stride=1, groups=1):
    return convolve(x, part.params["kernel"], stride, groups)


def batch_norm(part, x):
    mean, var = (
        (x.mean((0, 1, 2)), x.var((0, 1, 2)))
        if part.train
        else (part.stats["mean"], part.stats["var"])
    )
    scale, bias = part.params.get("scale", 1), part.params.get("bias", 0)
    return (x - mean) / np.sqrt(var + 1e-5) * scale + bias


def group_norm(x, groups):
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, groups, channels // groups)
    mean, var = (f(x, axis=(1, 2, 4), keepdims=True) for f in (np.mean, np.var))
    return ((x - mean) / np.sqrt(var + 1e-5)).reshape(batch, height, width, channels)


def linear(part, x):
    return x @ part.params["kernel"] + part.params["bias"]


def conv_norm(part, number, x, **keywords):
    return batch_norm(part[f"norm{number}"], conv(part[f"conv{number}"], x, **keywords))


def basic_block(part, x, stride):
    return conv_norm(part, 2, relu(conv_norm(part, 1, x, stride=stride)))


def bottleneck(part, x, stride, groups=1, inner=None):
    z = relu(conv_norm(part, 1, x))
    u = conv_norm(part, 2, z, stride=stride, groups=groups)
    if inner is not None and stride == 1:
        u = u + inner(part["inner_shortcut"], z)
    return conv_norm(part, 3, relu(u))


def previous_output(part, outputs, blocks, layer):
    """The shortcut of a residual network."""
    return outputs[-1]


def residual_network(variables, images, depths, *, block, shortcut=previous_output, train=False):
    """Logits of a network for small images with `depths` blocks in its stages."""
    part = whole(variables, train)
    x = relu(batch_norm(part["stem_norm"], conv(part["stem_conv"], images)))
    for i, depth in enumerate(depths, start=1):
        stride = 1 if i == 1 else 2
        residual = block(part[f"stage{i}_opening"], x, stride)
        if f"stage{i}_projection" in part:
            projection = part[f"stage{i}_projection"]
            x = batch_norm(projection["norm"], conv(projection["conv"], x, stride))
        outputs = [relu(residual + x)]
        # The first output counts as a block in variant (a).
        blocks = [outputs[0]]
        for layer in range(1, depth):
            stage = part[f"stage{i}"]
            added = shortcut(stage, outputs, blocks, layer)
            blocks.append(block(stage[f"layer{layer}"], outputs[-1], 1))
            outputs.append(relu(blocks[-1] + added))
        x = outputs[-1]
    return linear(part["classifier"], x.mean((1, 2)))
