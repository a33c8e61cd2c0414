"""HCGNet against straight-line code, and its gradients, dropout and first weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax import create_model
from aggnets_jax.layers import common
from aggnets_jax.models.hcgnet import SMG
from tests.models import residual_numpy
from tests.models.residual_numpy import convolve
from tests.models.variables import random_variables

# Compiling takes most of the time here.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class Reference:
    """The paper's equations, reading the parameters of ours by name."""

    def __init__(self, variables, train):
        self.params, self.stats = variables["params"], variables["batch_stats"]
        self.train, self.activation = train, np.tanh
        self.updated = {}

    def _at(self, tree, path):
        return functools.reduce(lambda node, key: node[key], path.split("/"), tree)

    def norm(self, x, path):
        weights, running = self._at(self.params, path), self._at(self.stats, path)
        mean, var = running["mean"], running["var"]
        if self.train:
            axes = tuple(range(x.ndim - 1))
            mean = np.mean(x, axes)
            var = np.mean((x - mean) ** 2, axes)
            self.updated[f"{path}/mean"] = 0.9 * running["mean"] + 0.1 * mean
            self.updated[f"{path}/var"] = 0.9 * running["var"] + 0.1 * var
        return (x - mean) / np.sqrt(var + 1e-5) * weights["scale"] + weights["bias"]

    def conv(self, x, path, *, stride=1, groups=1, dilation=1):
        return convolve(x, self._at(self.params, path)["kernel"], stride, groups, dilation)

    def relu_conv(self, x, norm, conv, **keywords):
        return self.conv(np.maximum(self.norm(x, norm), 0), conv, **keywords)

    def linear(self, z, path):
        weights = self._at(self.params, path)
        return z @ weights["kernel"][0, 0] + weights["bias"]

    def pool(self, x, path):
        score = np.exp(self.linear(x, f"{path}/scores")[..., 0])
        total = np.einsum("bhw,bhwc->bc", score, x)
        return total / np.sum(score, (1, 2))[:, None]

    def smg(self, x, path, *, stride=1, groups=1):
        p = functools.partial("{}/{}".format, path)
        x = self.relu_conv(x, p("norm1"), p("conv1"))
        x = self.relu_conv(x, p("norm2"), p("conv2"), stride=stride, groups=groups)
        return x * self.forget(x, p)[:, None, None] + self.update(x, p)[:, None, None]

    def forget(self, x, p):
        z = self.linear(self.pool(x, p("forget_gate/pool")), p("forget_gate/linear1"))
        z = self.activation(self.norm(z, p("forget_gate/norm")))
        return 1 / (1 + np.exp(-self.linear(z, p("forget_gate/linear2"))))

    def update(self, x, p):
        channels = x.shape[-1]
        a = self.relu_conv(x, p("norm_3x3"), p("conv_3x3"), groups=channels)
        b = self.relu_conv(x, p("norm_5x5"), p("conv_5x5"), groups=channels, dilation=2)

        a, b = self.pool(a, p("update_gate/pool_3x3")), self.pool(b, p("update_gate/pool_5x5"))
        h = self.linear(np.concatenate([a, b], 1), p("update_gate/linear"))
        h = self.activation(self.norm(h, p("update_gate/norm")))
        heads = [np.exp(self.linear(h, p(f"update_gate/head_{k}"))) for k in ("3x3", "5x5")]
        return (heads[0] * a + heads[1] * b) / (heads[0] + heads[1])

    def combine(self, y, sources, aggregation):
        if aggregation == "concat":
            return np.concatenate([y[s] for s in sources], axis=-1)
        return sum(y[s] for s in sources) / (len(sources) if aggregation == "mean" else 1)

    def stem(self, x, imagenet):
        if not imagenet:
            return self.conv(x, "stem_conv")
        for i in (1, 2, 3):
            x = self.conv(x, f"stem_conv{i}", stride=2 if i == 1 else 1)
            x = np.maximum(self.norm(x, f"stem_norm{i}"), 0)
        # No value is negative, so that zeros around them change no maximum.
        size = (x.shape[1] - 1) // 2 + 1
        x = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
        ends = [slice(i, i + 2 * size - 1, 2) for i in range(3)]
        return functools.reduce(np.maximum, [x[:, i, j] for i in ends for j in ends])

    def __call__(self, x, rules, depths, *, groups=4, aggregation="concat", imagenet=False):
        x = self.stem(x, imagenet)
        for i, (rule, depth) in enumerate(zip(rules, depths, strict=True), start=1):
            if i > 1:
                x = self.smg(x, f"transition{i - 1}", stride=2)
            y = [x]
            for layer in range(1, depth + 1):
                h = self.combine(y, rule(layer), aggregation) if layer > 1 else x
                y.append(self.smg(h, f"stage{i}/layer{layer}", groups=groups))
                if layer == 1 and aggregation != "concat":
                    y[0] = self.conv(x, f"stage{i}/projection")
            x = self.combine(y, rule(depth + 1), aggregation)
        x = np.maximum(self.norm(x, "head_norm"), 0).mean((1, 2))
        return x @ self.params["classifier"]["kernel"] + self.params["classifier"]["bias"]


def flat(tree):
    return {
        "/".join(str(key.key) for key in path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def check_updates(updates, updated, variables, train):
    if not train:
        assert updated == {}
        updated = flat(variables["batch_stats"])
    updates = flat(updates["batch_stats"])
    assert set(updates) == set(updated)
    for path, value in updated.items():
        np.testing.assert_allclose(updates[path], value, rtol=1e-10, atol=1e-10, err_msg=path)


@pytest.mark.parametrize(
    ("stride", "groups", "reduction", "train", "options"),
    [
        (1, 4, 2, True, {}),
        (2, 1, 4, True, {}),
        (1, 2, 3, False, {}),
        (1, 4, 2, True, {"update_reduction": 4, "activation": "relu"}),
    ],
)
def test_smg_module_is_the_straight_line_code(stride, groups, reduction, train, options):
    with jax.enable_x64(True):
        module = SMG(
            features=8,
            width=20,
            groups=groups,
            stride=stride,
            reduction=reduction,
            norm=common.batch_norm(train=train, dtype=jnp.float64),
            conv=functools.partial(common.conv, dtype=jnp.float64),
            name="smg",
            **options,
        )
        x = np.random.default_rng(1).standard_normal((5, 6, 7, 10))
        shapes = jax.eval_shape(module.init, jax.random.key(0), x)
        random = np.random.default_rng(2)
        variables = jax.tree.map(lambda leaf: random.uniform(0.1, 1, leaf.shape) - 0.3, shapes)
        variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])
        output, updates = jit(functools.partial(module.apply, mutable=["batch_stats"]))(
            variables, x
        )
    r_update = options.get("update_reduction", reduction)
    gates = variables["params"]["update_gate"], variables["params"]["forget_gate"]
    hidden = [gate["norm"]["scale"].size for gate in gates]
    assert hidden == [16 // r_update, 8 // reduction]
    reference = Reference({key: {"smg": value} for key, value in variables.items()}, train)
    reference.activation = residual_numpy.relu if "activation" in options else np.tanh
    expected = reference.smg(x, "smg", stride=stride, groups=groups)
    assert output.dtype == jnp.float64
    assert output.shape == (5, 6 // stride, 7 // stride + 7 % stride, 8)
    np.testing.assert_allclose(output, expected, rtol=1e-10, atol=1e-10)
    updated = {path.removeprefix("smg/"): value for path, value in reference.updated.items()}
    check_updates(updates, updated, variables, train)


def sparse(layer):
    return [layer - offset for offset in (1, 2, 4) if offset <= layer]


def dense(layer):
    return list(range(layer))


def last_two(layer):
    return list(range(max(0, layer - 2), layer))


NETWORKS = {
    # name: arguments of create_model, size of images, arguments of Reference
    "dense": (
        ("hcgnet_n2_1_1_k4_8_4", {"compression": 0.4}),
        8,
        ([dense] * 3, (2, 1, 1)),
    ),
    "sparse": (
        ("hcgnet_n4_1_k4_6", {"topology": "sparse", "groups": 2}),
        7,
        ([sparse] * 2, (4, 1), {"groups": 2}),
    ),
    "window_summed": (
        (
            "hcgnet_n3_2_k8",
            {"topology": "windowed", "topology_args": {"window": 2}, "aggregation": "sum"},
        ),
        8,
        ([last_two] * 2, (3, 2), {"aggregation": "sum"}),
    ),
    "topology_per_block_mean": (
        ("hcgnet_n3_2_k8", {"topology": ("sparse", "dense"), "aggregation": "mean"}),
        8,
        ([sparse, dense], (3, 2), {"aggregation": "mean"}),
    ),
    "imagenet": (
        ("hcgnet_imagenet_n1_2_k4_8", {"stem_features": 6}),
        28,
        ([dense] * 2, (1, 2), {"imagenet": True}),
    ),
}


@pytest.mark.parametrize(
    ("network", "train"),
    [
        ("dense", True),
        pytest.param("sparse", False, marks=pytest.mark.slow),
        pytest.param("window_summed", True, marks=pytest.mark.slow),
        pytest.param("imagenet", True, marks=pytest.mark.slow),
        pytest.param("topology_per_block_mean", True, marks=pytest.mark.slow),
    ],
)
def test_network_is_the_straight_line_code(network, train):
    (name, overrides), size, (rules, depths, *options) = NETWORKS[network]
    with jax.enable_x64(True):
        model = create_model(name, 7, dtype=jnp.float64, **overrides)
        variables = random_variables(model, size)
        images = np.random.default_rng(1).standard_normal((3, size, size, 3))

        @jit
        def ours(variables, images):
            (logits, _), updates = model.apply(
                variables, images, train=train, mutable=["batch_stats"]
            )
            return logits, updates

        logits, updates = ours(variables, images)
    reference = Reference(variables, train)
    expected = reference(images, rules, depths, **(options or [{}])[0])
    assert logits.dtype == jnp.float64
    np.testing.assert_allclose(logits, expected, rtol=1e-9, atol=1e-9)
    check_updates(updates, reference.updated, variables, train)


@pytest.mark.slow
def test_gradients_reach_all_but_the_biases_that_cancel():
    # A softmax is blind to a bias of all scores, a normalisation to a bias before it.
    with jax.enable_x64(True):
        model = create_model("hcgnet_n2_1_k4", dtype=jnp.float64)
        variables = random_variables(model, 8)
        images = np.random.default_rng(1).standard_normal((4, 8, 8, 3))

        def loss(params):
            (logits, _), _ = model.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )
            return jnp.sum(jax.nn.log_softmax(logits)[:, 0])

        gradients = flat(jit(jax.grad(loss))(variables["params"]))
    blind = ("scores/bias", "forget_gate/linear1/bias", "update_gate/linear/bias")
    for path, gradient in gradients.items():
        assert (np.abs(gradient).max() < 1e-12) == path.endswith(blind), path


def test_bfloat16_logits_are_near_those_of_float32():
    images = np.random.default_rng(0).standard_normal((4, 8, 8, 3)).astype(np.float32)
    models = [create_model("hcgnet_n2_k8", dtype=dtype) for dtype in (jnp.float32, jnp.bfloat16)]
    variables = random_variables(models[0], 8, np.float32)
    logits = [jit(model.apply)(variables, images)[0] for model in models]
    difference = np.abs(logits[0] - logits[1]).max() / np.abs(logits[0]).max()
    assert 0 < difference < 0.05


def test_dropout_before_the_classifier_in_training_only():
    features = 8 + 4
    model = create_model("hcgnet_n1_k4", features, dropout=0.5)
    variables = random_variables(model, 8, np.float32)
    variables["params"]["classifier"] = {"kernel": np.eye(features), "bias": np.zeros(features)}
    images = np.random.default_rng(0).standard_normal((16, 8, 8, 3)).astype(np.float32)
    train = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    (logits, endpoints), _ = jit(train)(variables, images, rngs={"dropout": jax.random.key(1)})
    kept = np.asarray(logits != 0)
    expected = np.where(kept, 2 * endpoints["pre_logits"], 0)
    np.testing.assert_allclose(logits, expected, rtol=1e-5)
    assert abs(kept.mean() - 0.5) < 5 * 0.5 / np.sqrt(kept.size)
    logits, endpoints = jit(model.apply)(variables, images)
    np.testing.assert_allclose(logits, endpoints["pre_logits"], rtol=1e-5)


@pytest.mark.slow
def test_initialisation():
    # Uniform within 1 / sqrt(fan-in), the biases of linear layers, too.
    model = create_model("hcgnet_n1_1_k64", 300, aggregation="sum")
    variables = flat(jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3))))
    biases, kernels = [], 0
    for path, value in variables.items():
        module, _, kind = path.rpartition("/")
        value = np.asarray(value, np.float64)
        if kind in ("scale", "var"):
            assert (value == 1).all(), path
        elif kind == "mean" or "norm" in module.rpartition("/")[2]:
            assert (value == 0).all(), path
        elif kind == "bias":
            biases.append(value * np.sqrt(np.prod(variables[f"{module}/kernel"].shape[:-1])))
            assert biases[-1].all(), path
        else:
            scaled = value * np.sqrt(np.prod(value.shape[:-1]))
            assert np.abs(scaled).max() <= 1 + 1e-6, path
            assert abs(scaled.mean()) < 5 / np.sqrt(3 * value.size), path
            assert abs(3 * np.mean(scaled**2) - 1) < 5 * np.sqrt(0.8 / value.size), path
            kernels += 1
    # Stem, classifier, a projection where a later layer reads y_0, and twelve of each module.
    assert kernels == 1 + 1 + 2 + 3 * 12
    biases = np.concatenate(biases)
    assert 0.99 < np.abs(biases).max() <= 1 + 1e-6
    assert abs(3 * np.mean(biases**2) - 1) < 5 * np.sqrt(0.8 / biases.size)


def test_widths_are_floors_of_decimals():
    """In floating point, 4.6 * 100 is 459.99999999999994."""
    hybrid = create_model("hcgnet_n1_1_1_k100", 10, multiplier=4.6)
    assert hybrid.width(100) == 460
    assert create_model("hcgnet_n1_1_1_k8_16_20", 10).clone(
        transition_multiplier=4.1
    ).transition_widths(200) == (100, 410)
