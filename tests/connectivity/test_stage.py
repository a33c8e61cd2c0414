"""The stage against straight-line code, for all patterns and aggregations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from aggnets_jax.connectivity.patterns import PATTERNS
from aggnets_jax.connectivity.stage import Stage
from aggnets_jax.connectivity.topology import make_topology
from aggnets_jax.errors import UserError
from tests.marks import mostly_slow

TOPOLOGIES = [
    *(make_topology(name, 7) for name in sorted(set(PATTERNS) - {"custom"})),
    make_topology("sparse", 7, base=3),
    make_topology("log_dense", 7, base=1.3),
    make_topology("random", 7, density=0.3, seed=4),
    make_topology("custom", 3, edges=[(1, 0), (2, 0), (3, 1), (3, 0), (4, 3), (4, 0), (4, 2)]),
]

# Compiling takes most of the time here.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def label(topology):
    return f"{topology.name}-{topology.num_links}"


class Tanh(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x):
        return jnp.tanh(nn.Dense(self.features, name="linear")(x))


def stage(topology, features, aggregation="concat", projection=None):
    return Stage(
        topology,
        unit=functools.partial(Tanh, features),
        aggregation=aggregation,
        projection=projection,
    )


def projection_to(features):
    return functools.partial(nn.Dense, features, use_bias=False)


def straight_line(topology, params, x, aggregation):
    def unit(name, x):
        linear = params[name]["linear"]
        return np.tanh(x @ linear["kernel"] + linear["bias"])

    def combine(sources):
        read = [y[source] for source in sources]
        if aggregation == "concat":
            return np.concatenate(read, axis=-1)
        return sum(read) / (len(read) if aggregation == "mean" else 1)

    y = {0: x}
    y[1] = unit("layer1", x)
    if "projection" in params:
        y[0] = x @ params["projection"]["kernel"]
    for layer in range(2, topology.depth + 1):
        y[layer] = unit(f"layer{layer}", combine(topology.sources_of(layer)))
    return combine(topology.sources_of(topology.depth + 1))


def check(module, x, reference):
    with jax.enable_x64(True):
        x = jnp.asarray(x, jnp.float64)
        variables = jax.eval_shape(module.init, jax.random.key(0), x)
        random = np.random.default_rng(1)
        variables = jax.tree.map(lambda p: random.standard_normal(p.shape) / 2, variables)
        output = jit(module.apply)(variables, x)
        expected = reference(variables["params"], np.asarray(x))
    assert output.dtype == jnp.float64
    np.testing.assert_allclose(output, expected, rtol=1e-12, atol=1e-12)


X = np.random.default_rng(0).standard_normal((2, 2, 2, 4))


@mostly_slow("aggregation", ["concat", "sum", "mean"], quick=(0, 1))
@pytest.mark.parametrize("topology", TOPOLOGIES, ids=label)
def test_stage_is_the_straight_line_loop(topology, aggregation):
    check(
        stage(topology, 4, aggregation),
        X,
        lambda params, x: straight_line(topology, params, x, aggregation),
    )


@mostly_slow("aggregation", ["concat", "sum", "mean"], quick=(0, 1))
@pytest.mark.parametrize("topology", TOPOLOGIES, ids=label)
def test_projection_stands_for_the_input_from_layer_2_on(topology, aggregation):
    check(
        stage(topology, 3, aggregation, projection=projection_to(3)),
        X,
        lambda params, x: straight_line(topology, params, x, aggregation),
    )


def layers_of(params):
    def layer(number):
        linear = params[f"layer{number}"]["linear"]
        return lambda x: np.tanh(x @ linear["kernel"] + linear["bias"])

    return [layer(number) for number in range(1, 7)]


def test_sparse_stage_of_six_layers_written_out_from_eq_2():
    def eq_2(params, y0):
        f1, f2, f3, f4, f5, f6 = layers_of(params)
        y1 = f1(y0)
        y2 = f2(np.concatenate([y1, y0], axis=-1))
        y3 = f3(np.concatenate([y2, y1], axis=-1))
        y4 = f4(np.concatenate([y3, y2, y0], axis=-1))
        y5 = f5(np.concatenate([y4, y3, y1], axis=-1))
        y6 = f6(np.concatenate([y5, y4, y2], axis=-1))
        return np.concatenate([y6, y5, y3], axis=-1)

    check(stage(make_topology("sparse", 6), 3), X, eq_2)


def test_dense_stage_of_six_layers_written_out_from_eq_3():
    def eq_3(params, y0):
        y = y0
        for layer in layers_of(params):
            y = np.concatenate([y, layer(y)], axis=-1)
        return y

    check(stage(make_topology("dense", 6), 3), X, eq_3)


def test_dense_sum_with_projection_is_a_residual_stage():
    def residual(params, x):
        first, *others = layers_of(params)
        x = x @ params["projection"]["kernel"] + first(x)
        for layer in others:
            x = x + layer(x)
        return x

    module = stage(make_topology("dense", 6), 3, "sum", projection=projection_to(3))
    check(module, X, residual)


def test_parameter_names_and_widths():
    def shapes(module):
        images = jnp.ones((1, 2, 2, 5))
        return jax.eval_shape(module.init, jax.random.key(0), images)["params"]

    params = shapes(stage(make_topology("sparse", 6), 3))
    widths = {name: layer["linear"]["kernel"].shape for name, layer in params.items()}
    reads = make_topology("sparse", 6).aggregated_features(3, 5)
    assert widths == {f"layer{n}": (reads[n - 1], 3) for n in range(1, 7)}

    params = shapes(stage(make_topology("sparse", 6), 3, projection=projection_to(2)))
    assert set(params) == {f"layer{n}" for n in range(1, 7)} | {"projection"}
    assert params["projection"]["kernel"].shape == (5, 2)
    assert params["layer1"]["linear"]["kernel"].shape == (5, 3)
    assert params["layer2"]["linear"]["kernel"].shape == (3 + 2, 3)


def test_the_unit_gets_the_number_of_its_layer():
    calls = []

    def unit(layer, name):
        calls.append((layer, name))
        return Tanh(4, name=name)

    Stage(make_topology("plain", 3), unit).init(jax.random.key(0), jnp.ones((1, 1, 1, 4)))
    assert calls == [(1, "layer1"), (2, "layer2"), (3, "layer3")]


def test_a_unit_may_take_the_name_only():
    def parameters(unit):
        stage = Stage(make_topology("dense", 3), unit)
        return stage.init(jax.random.key(0), jnp.ones((1, 1, 1, 4)))

    with_number = parameters(lambda layer, name: Tanh(4, name=name))
    for unit in (functools.partial(Tanh, 4), lambda *, name: Tanh(4, name=name)):
        jax.tree.map(np.testing.assert_array_equal, parameters(unit), with_number)


# Layers 2 and 5 lead nowhere; 4 leads to 5 and 6.
DEAD_ENDS = make_topology(
    "custom", 6, edges=[(1, 0), (2, 1), (3, 0), (3, 1), (4, 3), (5, 4), (5, 2), (6, 4), (7, 6)]
)


@pytest.mark.parametrize(
    "topology",
    [
        make_topology("sparse", 7),
        make_topology("fractal", 7),
        make_topology("harmonic", 6),
        DEAD_ENDS,
        make_topology("sparse", 7).remove([(7, 6), (8, 6), (5, 4), (6, 4)]),
        make_topology("dense", 5).remove([(6, s) for s in (0, 1, 2, 4, 5)]),
    ],
    ids=label,
)
def test_gradient_reaches_exactly_what_a_path_leads_to(topology):
    module = stage(topology, 4)
    x = jnp.asarray(X[:1, :1, :1], jnp.float32)
    params = module.init(jax.random.key(0), x)["params"]
    names = [f"layer{n}" for n in range(1, topology.depth + 1)]

    def sums_of_outputs(biases, x):
        p = {n: {"linear": {**params[n]["linear"], "bias": biases[n]}} for n in names}
        output, captured = module.apply(
            {"params": p}, x, capture_intermediates=True, mutable=["intermediates"]
        )
        layers = captured["intermediates"]
        return jnp.stack([*(jnp.sum(layers[n]["__call__"][0]) for n in names), jnp.sum(output)])

    biases = {n: params[n]["linear"]["bias"] for n in names}
    by_bias, by_input = jit(jax.jacrev(sums_of_outputs, argnums=(0, 1)))(biases, x)
    reached = np.array([np.abs(by_bias[n]).max(axis=1) > 0 for n in names]).T
    by_input = np.abs(by_input).max(axis=(1, 2, 3, 4)) > 0
    reached = np.concatenate([by_input[:, None], reached], axis=1)
    # Rows: layers 1..N and the stage's output; columns: y_0..y_N.
    connected = np.isfinite(topology.shortest_paths())[1:, :-1]
    np.testing.assert_array_equal(reached, connected)


def test_dead_ends_are_dead():
    reached = np.isfinite(DEAD_ENDS.shortest_paths()[-1, :-1])
    assert reached.tolist() == [True, True, False, True, True, False, True]


@pytest.mark.parametrize("aggregation", ["sum", "mean"])
def test_a_sum_of_other_widths_needs_a_projection(aggregation):
    with pytest.raises(UserError, match="outputs of one shape"):
        stage(make_topology("dense", 3), 5, aggregation).init(
            jax.random.key(0), jnp.asarray(X, jnp.float32)
        )


def test_unknown_aggregation_names_the_nearest():
    with pytest.raises(UserError, match="nearest: concat"):
        stage(make_topology("dense", 3), 4, "concatenate").init(
            jax.random.key(0), jnp.asarray(X, jnp.float32)
        )
