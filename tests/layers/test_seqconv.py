"""SeqConv layers, blocks and networks against code that slides a window over channels."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from aggnets_jax import create_model, make_topology
from aggnets_jax.layers import common
from aggnets_jax.layers.seqconv import Features, Group, ResidualBlock, SeqConv
from tests.marks import mostly_slow
from tests.models.residual_numpy import convolve
from tests.models.variables import random_variables

# Compiling takes most of the time here.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class StraightLine:
    """The networks written out, with all channels in one array and no groups of outputs."""

    def __init__(self, variables, train):
        self.variables = traverse_util.flatten_dict(variables, sep="/")
        self.train = train

    def has(self, path):
        return f"params/{path}/kernel" in self.variables

    def conv(self, x, path, stride=1, groups=1):
        return convolve(x, self.variables[f"params/{path}/kernel"], stride, groups)

    def norm_relu(self, x, path):
        if self.train:
            mean, var = np.mean(x, (0, 1, 2)), np.var(x, (0, 1, 2))
        else:
            mean, var = (self.variables[f"batch_stats/{path}/{name}"] for name in ("mean", "var"))
        scale, bias = (self.variables[f"params/{path}/{name}"] for name in ("scale", "bias"))
        return np.maximum((x - mean) / np.sqrt(var + 1e-5) * scale + bias, 0)

    def conv_norm_relu(self, x, path, stride=1, groups=1):
        raw = self.conv(x, f"{path}/conv", stride, groups)
        return raw, self.norm_relu(raw, f"{path}/norm")

    def layer(self, x, path, k, c=1, windowed=True, residual=None):
        window, raws, acts = x, [], []
        for i in itertools.count():
            group = f"{path}/groups/layer{i + 1}"
            if self.has(f"{group}/conv1"):
                y = self.norm_relu(self.conv(window, f"{group}/conv1"), f"{group}/norm1")
                raw, norm = self.conv(y, f"{group}/conv2", groups=c), f"{group}/norm2"
            elif self.has(f"{group}/conv"):
                raw, norm = self.conv(window, f"{group}/conv"), f"{group}/norm"
            else:
                return np.concatenate(raws, -1), np.concatenate(acts, -1)
            if residual is not None:
                raw = raw + residual[..., i * k : (i + 1) * k]
            raws.append(raw)
            acts.append(self.norm_relu(raw, norm))
            window = np.concatenate([window[..., k if windowed else 0 :], acts[-1]], -1)
        raise AssertionError

    def block(self, raw, act, path, k, c=1, windowed=True):
        _, between = self.layer(act, f"{path}/seqconv_a", k, c, windowed)
        return self.layer(between, f"{path}/seqconv_b", k, c, windowed, residual=raw)

    def network(self, x, ks, cs, blocks, windowed=True):
        if self.has("stem_conv/conv"):
            _, x = self.conv_norm_relu(x, "stem_conv")
            raw, act = self.layer(x, "stem_seqconv", ks[0], cs[0], windowed=False)
        else:
            _, x = self.conv_norm_relu(x, "stem1", 2)
            _, x = self.conv_norm_relu(x, "stem2")
            _, x = self.layer(x, "stem3", ks[0], cs[0], windowed=False)
            raw, act = self.conv_norm_relu(x, "stem4", 2, x.shape[-1] // ks[0] * cs[0])
        for i, (k, c, n) in enumerate(zip(ks, cs, blocks, strict=True)):
            if i > 0:
                down = f"downsample{i}"
                _, more = self.layer(act, f"{down}/extension", ks[i - 1], cs[i - 1], windowed)
                joined = np.concatenate([act, more], -1)
                groups = joined.shape[-1] // k * c
                raw, act = self.conv_norm_relu(joined, f"{down}/downsizing", 2, groups)
            for block in range(1, n + 1):
                raw, act = self.block(raw, act, f"stage{i + 1}/layer{block}", k, c, windowed)
        _, x = self.conv_norm_relu(act, "head")
        weights = [self.variables[f"params/classifier/{name}"] for name in ("kernel", "bias")]
        return x.mean((1, 2)) @ weights[0] + weights[1]


NETWORKS = {
    "plain": ("seqresnet_k8_r1_n121", {}, (8,) * 3, (1,) * 3, (1, 2, 1), True),
    "full": ("seqresnet_k8_r1_n1_full", {}, (8,) * 3, (1,) * 3, (1,) * 3, False),
    "one group": ("seqresnet_k16_r1_n1", {}, (16,) * 3, (1,) * 3, (1,) * 3, True),
    "wide groups": ("seqresnet_b_k32_r2_n1", {}, (32,) * 3, (1,) * 3, (1,) * 3, True),
    "bottleneck": ("seqresnet_b_k8_4_16_r1_n1", {}, (8, 4, 16), (1,) * 3, (1,) * 3, True),
    "subgroups": ("seqresnext_k8_c4_r1_n1", {}, (8,) * 3, (4,) * 3, (1,) * 3, True),
    "imagenet": (
        "seqresnext_imagenet",
        {"width": 8, "blocks": 1, "group_width": (4, 8, 16, 32), "cardinality": (2, 1, 4, 2)},
        (4, 8, 16, 32),
        (2, 1, 4, 2),
        (1,) * 4,
        True,
    ),
}


@mostly_slow(("case", "train"), [(case, case == "imagenet") for case in NETWORKS], quick=(1, 5))
def test_networks_written_out(case, train):
    name, overrides, ks, cs, blocks, windowed = NETWORKS[case]
    with jax.enable_x64(True):
        model = create_model(name, 5, dtype=jnp.float64, **overrides)
        variables = random_variables(model, 32)
        size = 32 if case == "imagenet" else 8
        images = np.random.default_rng(1).standard_normal((2, size, size, 3))

        def apply(variables, images):
            return model.apply(variables, images, train=train, mutable=["batch_stats"])[0][0]

        logits = jit(apply)(variables, images)
    expected = StraightLine(variables, train).network(images, ks, cs, blocks, windowed)
    assert logits.dtype == jnp.float64
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(logits, expected, rtol=1e-9, atol=1e-9)


def group(k, *, bottleneck=False, cardinality=1, dropout=0.0, train=False):
    return functools.partial(
        Group,
        k,
        bottleneck=bottleneck,
        cardinality=cardinality,
        norm=common.batch_norm(train=train, dtype=jnp.float64),
        conv=functools.partial(common.conv, dtype=jnp.float64),
        dropout=functools.partial(common.channel_dropout, dropout, train=train),
    )


def random_like(shapes):
    random = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key in ("scale", "var"):
            return random.uniform(0.5, 1.5, leaf.shape)
        return random.standard_normal(leaf.shape) / 4

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.mark.parametrize(
    ("slices", "groups", "bottleneck", "cardinality"),
    [(3, 3, False, 1), (4, 2, False, 1), (1, 3, True, 1), (2, 5, True, 2)],
)
def test_windowed_layer_and_residual_block(slices, groups, bottleneck, cardinality):
    k = 4
    topology = make_topology("windowed", slices - 1 + groups, window=slices)
    layer = functools.partial(
        SeqConv,
        topology,
        slices=slices,
        groups=groups,
        group=group(k, bottleneck=bottleneck, cardinality=cardinality),
    )
    random = np.random.default_rng(1)
    x = random.standard_normal((2, 5, 4, slices * k))
    with jax.enable_x64(True):
        residual = random.standard_normal((2, 5, 4, groups * k))
        variables = random_like(jax.eval_shape(layer().init, jax.random.key(0), x))

        straight = StraightLine({c: {"seqconv": v} for c, v in variables.items()}, False)
        for added in (None, residual):
            actual = jit(layer().apply)(variables, x, added)
            expected = straight.layer(x, "seqconv", k, cardinality, residual=added)
            np.testing.assert_allclose(actual.raw, expected[0], rtol=1e-11, atol=1e-11)
            np.testing.assert_allclose(actual.activated, expected[1], rtol=1e-11, atol=1e-11)
        if slices != groups:
            return

        block = ResidualBlock(layer)
        features = Features(residual, x)
        variables = random_like(jax.eval_shape(block.init, jax.random.key(0), features))

        actual = jit(block.apply)(variables, features)
        straight = StraightLine({c: {"block": v} for c, v in variables.items()}, False)
        expected = straight.block(*features, "block", k, cardinality)
        np.testing.assert_allclose(actual.raw, expected[0], rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(actual.activated, expected[1], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("name", "arguments", "aggregation"),
    [
        ("sparse", {}, "concat"),
        ("plain", {}, "concat"),
        ("windowed", {"window": 2}, "concat"),
        ("random", {"density": 0.3, "seed": 3}, "concat"),
        ("sparse", {}, "sum"),
        ("windowed", {"window": 3}, "mean"),
    ],
)
def test_any_pattern_over_slices_and_groups(name, arguments, aggregation):
    k, slices, groups = 4, 4, 4
    topology = make_topology(name, slices - 1 + groups, **arguments)
    layer = SeqConv(topology, slices, groups, group(k), aggregation=aggregation)
    x = np.random.default_rng(1).standard_normal((2, 3, 3, slices * k))

    def written_out(variables, x):
        straight = StraightLine(variables, False)
        y = [x[..., i * k : (i + 1) * k] for i in range(slices)]
        for i in range(groups):
            read = [y[source] for source in topology.sources_of(slices + i)]
            if aggregation == "concat":
                read = np.concatenate(read, -1)
            else:
                read = sum(read) / (len(read) if aggregation == "mean" else 1)
            y.append(straight.conv_norm_relu(read, f"groups/layer{i + 1}")[1])
        return np.concatenate(y[slices:], -1)

    with jax.enable_x64(True):
        variables = random_like(jax.eval_shape(layer.init, jax.random.key(0), x))
        actual = jit(layer.apply)(variables, x).activated
    np.testing.assert_allclose(actual, written_out(variables, x), rtol=1e-11, atol=1e-11)


def test_a_block_begins_as_the_identity_on_raw_features():
    for bottleneck in (False, True):
        layer = functools.partial(
            SeqConv,
            make_topology("windowed", 3, window=2),
            slices=2,
            groups=2,
            group=group(4, bottleneck=bottleneck, train=True),
        )
        block = ResidualBlock(layer)
        raw, act = np.random.default_rng(0).standard_normal((2, 3, 4, 4, 8))
        with jax.enable_x64(True):
            run = jit(functools.partial(block.init_with_output))
            output, variables = run(jax.random.key(0), Features(raw, act))
        np.testing.assert_array_equal(output.raw, raw)
        standard = (raw - raw.mean((0, 1, 2))) / np.sqrt(raw.var((0, 1, 2)) + 1e-5)
        np.testing.assert_allclose(output.activated, np.maximum(standard, 0), atol=1e-9)
        kernels = traverse_util.flatten_dict(variables["params"], sep="/")
        zero = {
            path for path, value in kernels.items() if path.endswith("kernel") and not value.any()
        }
        last = "conv2" if bottleneck else "conv"
        assert zero == {f"seqconv_b/groups/layer{i}/{last}/kernel" for i in (1, 2)}


@pytest.mark.slow
def test_initial_weights():
    model = create_model("seqresnext_k16_c4_r2_n1", 100)
    variables = jit(model.init)(jax.random.key(3), jnp.zeros((1, 8, 8, 3)))
    flat = traverse_util.flatten_dict(variables["params"], sep="/")
    ratios = []
    for path, value in flat.items():
        layer, _, leaf = path.rpartition("/")
        if leaf == "scale":
            assert (value == 1).all()
        elif leaf == "bias":
            assert (value == 0).all()
        elif "seqconv_b" in path and layer.endswith("conv2"):
            assert not value.any()
        else:
            fan_out = value.shape[-1] * math.prod(value.shape[:-2])
            bound = math.sqrt((3 if layer == "classifier" else 6) / fan_out)
            assert np.abs(value).max() <= bound
            ratios.append(np.std(value) / (bound / math.sqrt(3)))
            if value.size > 2000:
                assert np.abs(value).max() > 0.99 * bound, path
                assert ratios[-1] == pytest.approx(1, abs=0.05), path
                assert np.mean(value) == pytest.approx(0, abs=0.05 * bound), path
    assert np.mean(ratios) == pytest.approx(1, abs=0.01)


@pytest.mark.slow
def test_dropout_of_channels_drawn_anew_for_each_group():
    model = create_model("seqresnet_k8_r1_n1", dropout=0.4)
    variables = random_variables(model, 8, np.float32)
    images = np.random.default_rng(0).standard_normal((3, 8, 8, 3)).astype(np.float32)

    def run(variables, images, key):
        dropouts = {}

        def record(call, args, kwargs, context):
            output = call(*args, **kwargs)
            if isinstance(context.module, nn.Dropout) and context.module.rate > 0:
                dropouts["/".join(context.module.path[:-1])] = args[0], output
            return output

        with nn.intercept_methods(record):
            model.apply(
                variables, images, train=True, rngs={"dropout": key}, mutable=["batch_stats"]
            )
        return dropouts

    dropouts = jit(run)(variables, images, jax.random.key(0))
    blocks = [f"stage{i}/layer1/seqconv_{layer}" for i in (1, 2, 3) for layer in "ab"]
    extensions = ["downsample1/extension", "downsample2/extension"]
    assert {path.rpartition("/groups/")[0] for path in dropouts} == {"", *extensions, *blocks}
    assert len(dropouts) == 2 * (2 + 4 + 6) + 2 + 2 + 1
    kept = []
    for before, after in dropouts.values():
        for x, y in zip(np.moveaxis(before, 3, 1), np.moveaxis(after, 3, 1), strict=True):
            alive = x.any((1, 2))
            np.testing.assert_allclose(y, x / 0.6 * y.any((1, 2), keepdims=True), rtol=1e-6)
            kept += y.any((1, 2))[alive].tolist()
    assert len(kept) > 2000
    assert np.mean(kept) == pytest.approx(0.6, abs=0.03)

    def channels(layer):
        return dropouts[f"stage3/layer1/seqconv_a/groups/layer{layer}"][1].any((1, 2))

    # Group 2 reads what group 1 reads but for the oldest channels, drawn anew.
    assert (channels(1)[:, 8:] != channels(2)[:, :-8]).mean() > 0.2
    # By the running averages nothing is drawn: there is no generator to draw from.
    jax.eval_shape(model.apply, variables, images)
