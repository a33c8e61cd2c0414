"""SparseNet and DenseNet against straight-line code that shares nothing with the package."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aggnets_jax import create_model
from aggnets_jax.layers import common
from tests.marks import mostly_slow
from tests.models.residual_numpy import convolve
from tests.models.variables import random_variables

# Compiling takes most of the time here.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def sparse(layer):
    return [layer - offset for offset in (1, 2, 4, 8, 16) if offset <= layer]


def dense(layer):
    return list(range(layer))


def plain(layer):
    return [layer - 1]


class Reference:
    """The networks as the paper has them, reading the parameters of ours by name."""

    def __init__(self, variables, train):
        self.params, self.stats = variables["params"], variables["batch_stats"]
        self.train = train
        self.updated = {}

    def _at(self, tree, path):
        return functools.reduce(lambda node, key: node[key], path.split("/"), tree)

    def norm_relu(self, x, path):
        weights, running = self._at(self.params, path), self._at(self.stats, path)
        mean, var = running["mean"], running["var"]
        if self.train:
            mean = np.mean(x, (0, 1, 2))
            var = np.mean((x - mean) ** 2, (0, 1, 2))
            self.updated[path] = {
                "mean": 0.9 * running["mean"] + 0.1 * mean,
                "var": 0.9 * running["var"] + 0.1 * var,
            }
        x = (x - mean) / np.sqrt(var + 1e-5) * weights["scale"] + weights["bias"]
        return np.maximum(x, 0)

    def conv(self, x, path, stride=1, groups=1):
        return convolve(x, self._at(self.params, path)["kernel"], stride, groups)

    def halve(self, x):
        n, h, w, c = x.shape
        x = x[:, : h // 2 * 2, : w // 2 * 2]
        return x.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))

    def combine(self, y, sources, aggregation):
        if aggregation == "concat":
            return np.concatenate([y[s] for s in sources], axis=-1)
        return sum(y[s] for s in sources) / (len(sources) if aggregation == "mean" else 1)

    def __call__(
        self,
        x,
        rules,
        depths,
        bottleneck,
        *,
        imagenet=False,
        flatten=False,
        aggregation="concat",
        groups=1,
    ):
        if imagenet:
            x = self.norm_relu(self.conv(x, "stem_conv", stride=2), "stem_norm")
            x = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=-np.inf)
            size = (x.shape[1] - 3) // 2 + 1
            shifted = [
                x[:, i : i + 2 * size - 1 : 2, j : j + 2 * size - 1 : 2]
                for i, j in itertools.product(range(3), repeat=2)
            ]
            x = functools.reduce(np.maximum, shifted)
        else:
            x = self.conv(x, "stem_conv")
        for i, (rule, depth) in enumerate(zip(rules, depths, strict=True), start=1):
            if i > 1:
                x = self.norm_relu(x, f"transition{i - 1}/norm")
                x = self.halve(self.conv(x, f"transition{i - 1}/conv"))
            y = [x]
            for layer in range(1, depth + 1):
                path = f"stage{i}/layer{layer}"
                h = self.combine(y, rule(layer), aggregation) if layer > 1 else x
                h = self.norm_relu(h, f"{path}/norm1")
                if bottleneck:
                    h = self.norm_relu(self.conv(h, f"{path}/conv1"), f"{path}/norm2")
                last = "conv2" if bottleneck else "conv1"
                y.append(self.conv(h, f"{path}/{last}", groups=groups))
                if layer == 1 and aggregation != "concat":
                    y[0] = self.conv(x, f"stage{i}/projection")
            x = self.combine(y, rule(depth + 1), aggregation)
        x = self.norm_relu(x, "head_norm")
        if flatten:
            x = self.halve(x)
            x = np.concatenate([x[..., c].reshape(len(x), -1) for c in range(x.shape[-1])], axis=1)
        else:
            x = x.mean((1, 2))
        return x @ self.params["classifier"]["kernel"] + self.params["classifier"]["bias"]


def flat(tree):
    return {
        "/".join(str(key.key) for key in path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


NETWORKS = {
    # name: arguments of create_model, size of images, arguments of Reference
    "sparsenet": (
        ("sparsenet31_k3", {"stage_depths": (9, 2, 3)}),
        8,
        ([sparse] * 3, (9, 2, 3), False),
    ),
    "densenet_of_three_growth_rates": (
        ("densenet16_k2_3_4", {"stage_depths": (3, 2, 2)}),
        12,
        ([dense] * 3, (3, 2, 2), False),
    ),
    "sparsenet_bc": (
        ("sparsenet_bc40_k3", {"stage_depths": (4, 2, 1)}),
        8,
        ([sparse] * 3, (4, 2, 1), True),
    ),
    "densenet_bc_with_groups": (
        ("densenet_bc28_k4", {"stage_depths": (3, 2), "groups": 2}),
        8,
        ([dense] * 2, (3, 2), True, {"groups": 2}),
    ),
    "topology_per_stage": (
        ("sparsenet19_k4", {"stage_depths": (2, 3, 4), "topology": ("plain", "dense", "sparse")}),
        8,
        ([plain, dense, sparse], (2, 3, 4), False),
    ),
    "sum": (
        ("sparsenet_bc34_k4", {"stage_depths": (4, 2), "aggregation": "sum"}),
        8,
        ([sparse] * 2, (4, 2), True, {"aggregation": "sum"}),
    ),
    "mean": (
        ("densenet16_k4", {"stage_depths": (3, 2), "aggregation": "mean"}),
        8,
        ([dense] * 2, (3, 2), False, {"aggregation": "mean"}),
    ),
    "sparsenet_imagenet": (
        ("sparsenet121_k4", {"stage_depths": (1, 2, 1, 4)}),
        144,
        ([sparse] * 4, (1, 2, 1, 4), True, {"imagenet": True, "flatten": True}),
    ),
    "densenet_imagenet": (
        ("densenet121", {"stage_depths": (2, 1, 1, 3), "growth_rate": 4, "stem_features": 10}),
        50,
        ([dense] * 4, (2, 1, 1, 3), True, {"imagenet": True}),
    ),
}


@mostly_slow(
    ("network", "train"),
    [
        *((network, True) for network in NETWORKS),
        ("sparsenet", False),
        ("sparsenet_imagenet", False),
    ],
    quick=(0, 2, 3, 5, 6, 7),
)
def test_network_is_the_straight_line_code(network, train):
    (name, overrides), size, (rules, depths, bottleneck, *options) = NETWORKS[network]
    options = options[0] if options else {}
    with jax.enable_x64(True):
        model = create_model(name, 7, dtype=jnp.float64, **overrides)
        variables = random_variables(model, size)
        images = np.random.default_rng(1).standard_normal((3, size, size, 3))

        @jit
        def ours(variables, images):
            (logits, _), updates = model.apply(
                variables, images, train=train, mutable=["batch_stats"]
            )
            return logits, updates["batch_stats"]

        logits, batch_stats = ours(variables, images)
    reference = Reference(variables, train)
    expected = reference(images, rules, depths, bottleneck, **options)
    updated = reference.updated
    assert logits.dtype == jnp.float64
    assert logits.shape == (3, 7)
    np.testing.assert_allclose(logits, expected, rtol=1e-10, atol=1e-10)
    if not train:
        assert updated == {}
        updated = variables["batch_stats"]
    batch_stats, updated = flat(batch_stats), flat(updated)
    assert set(batch_stats) == set(updated)
    for path, value in updated.items():
        np.testing.assert_allclose(batch_stats[path], value, rtol=1e-10, atol=1e-10, err_msg=path)


def test_channel_dropout_drops_whole_channels_and_scales_the_rest():
    x = jnp.asarray(np.random.default_rng(0).uniform(1, 2, (8, 4, 5, 200)), jnp.float32)
    dropped = common.channel_dropout(0.3, train=True).apply(
        {}, x, rngs={"dropout": jax.random.key(1)}
    )
    alive = np.asarray(dropped != 0)
    channels = alive[:, 0, 0]
    np.testing.assert_array_equal(alive, np.broadcast_to(channels[:, None, None], x.shape))
    np.testing.assert_allclose(dropped, np.where(alive, x / 0.7, 0), rtol=1e-6)
    assert abs(np.mean(~channels) - 0.3) < 5 * np.sqrt(0.3 * 0.7 / channels.size)
    assert len({row.tobytes() for row in channels}) == 8
    kept = common.channel_dropout(0.3, train=False).apply({}, x)
    np.testing.assert_array_equal(kept, x)


@pytest.mark.parametrize(("name", "convs"), [("sparsenet10_k8", 1), ("sparsenet_bc16_k8", 2)])
def test_dropout_follows_each_convolution_of_a_layer_in_training_only(name, convs):
    overrides = {"stage_depths": (2, 1)}
    model = create_model(name, dropout=0.5, **overrides)
    without = create_model(name, **overrides)
    images = np.random.default_rng(0).standard_normal((4, 8, 8, 3)).astype(np.float32)
    variables = random_variables(without, 8, np.float32)
    run = functools.partial(
        model.apply,
        train=True,
        mutable=["batch_stats", "intermediates"],
        capture_intermediates=True,
    )
    _, state = jit(run)(variables, images, rngs={"dropout": jax.random.key(1)})
    for stage, layer in [(1, 1), (1, 2), (2, 1)]:
        seen = state["intermediates"][f"stage{stage}"][f"layer{layer}"]
        for conv in range(1, convs + 1):
            convolved = np.asarray(seen[f"conv{conv}"]["__call__"][0])
            assert (np.abs(convolved).max(axis=(1, 2)) > 0).all()
        output = np.asarray(seen["__call__"][0])
        kept = np.abs(output).max(axis=(1, 2)) > 0
        assert 0 < kept.mean() < 1
        expected = 2 * convolved * kept[:, None, None]
        np.testing.assert_allclose(output, expected, rtol=1e-6)
        if convs == 2:
            # What norm2 reads of a dropped channel is 0: normalised, one value in all the image.
            normed = np.asarray(seen["norm2"]["__call__"][0])
            flat_channels = np.ptp(normed, axis=(1, 2)) == 0
            assert 0 < flat_channels.mean() < 1
    evaluated = jit(model.apply)(variables, images)[0]
    np.testing.assert_array_equal(evaluated, jit(without.apply)(variables, images)[0])


@pytest.mark.parametrize(
    ("topology", "aggregation"), [("dense", "concat"), ("sparse", "sum"), ("sparse", "mean")]
)
def test_training_lowers_the_loss_and_reaches_every_parameter(topology, aggregation):
    model = create_model(
        "sparsenet19_k6", stage_depths=(3, 1), topology=topology, aggregation=aggregation
    )
    images = np.random.default_rng(0).standard_normal((16, 8, 8, 3)).astype(np.float32)
    labels = np.arange(16) % 10
    variables = random_variables(model, 8, np.float32)

    def loss_fn(params, batch_stats):
        (logits, _), updates = model.apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), updates["batch_stats"]

    @jit
    def step(params, batch_stats):
        (loss, batch_stats), gradients = jax.value_and_grad(loss_fn, has_aux=True)(
            params, batch_stats
        )
        params = jax.tree.map(lambda p, g: p - 0.2 * g, params, gradients)
        return params, batch_stats, loss, gradients

    params, batch_stats = variables["params"], variables["batch_stats"]
    losses = []
    for _ in range(20):
        params, batch_stats, loss, gradients = step(params, batch_stats)
        losses.append(float(loss))
    assert losses[-1] < 0.8 * losses[0]
    for path, gradient in flat(gradients).items():
        assert np.isfinite(gradient).all(), path
        assert np.abs(gradient).max() > 0, path


def test_custom_edges_are_the_pattern_they_spell():
    edges = [(n, n - offset) for n in range(1, 6) for offset in (1, 2, 4) if offset <= n]
    named = create_model("sparsenet16_k4")
    spelled = create_model("densenet16_k4", topology="custom", topology_args={"edges": edges})
    assert [t.sources for t in spelled.topologies] == [t.sources for t in named.topologies]
    images = np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype(np.float32)
    variables = random_variables(named, 8, np.float32)
    expected = jit(named.apply)(variables, images)[0]
    np.testing.assert_array_equal(jit(spelled.apply)(variables, images)[0], expected)


def test_initialisation():
    model = create_model("densenet_bc10_k32", 100, stage_depths=(2, 1))
    variables = flat(jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3))))
    largest = 0
    for path, value in variables.items():
        value = np.asarray(value, np.float64)
        kind = path.rpartition("/")[2]
        if kind in ("scale", "var"):
            assert (value == 1).all(), path
        elif kind in ("bias", "mean"):
            assert (value == 0).all(), path
        elif value.ndim == 4:
            height, width, _, out = value.shape
            std = np.sqrt(2 / (height * width * out))
            assert abs(value.std() / std - 1) < 5 / np.sqrt(2 * value.size), path
            assert abs(value.mean()) < 5 * std / np.sqrt(value.size), path
            largest = max(largest, np.abs(value).max() / std)
        else:
            bound = 1 / np.sqrt(value.shape[0])
            assert path == "params/classifier/kernel"
            assert 0.99 * bound < np.abs(value).max() <= bound
            assert abs(value.std() / (bound / np.sqrt(3)) - 1) < 0.05
    # Normal, not cut off at two deviations.
    assert largest > 3
