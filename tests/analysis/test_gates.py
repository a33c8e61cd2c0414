"""Gates: closed forms, and statistics against all values of the test set at once."""

import csv
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax import data
from aggnets_jax.analysis import gates
from aggnets_jax.analysis.gates import QUANTILES, describe, gate_statistics, gate_values, quantiles
from aggnets_jax.commands import make_parser
from aggnets_jax.errors import UserError
from aggnets_jax.evaluate import evaluation_batches
from aggnets_jax.runtime.mesh import make_mesh
from tests.analysis.networks import restored


@pytest.fixture(scope="module")
def network(data_dir):
    return restored(data_dir, "hcgnet", modules=(1, 1), growth_rate=4)


@pytest.fixture(scope="module")
def found(network):
    return gate_statistics(network, evaluation_batches(network, make_mesh()))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_gates_that_see_nothing_are_those_of_their_biases(network):
    """In every module f = sigmoid(b), and u is the softmax of the heads' biases."""

    def blind(path, leaf):
        names = [key.key for key in path]
        gate = {"linear2", "head_3x3", "head_5x5"} & {*names}
        return np.zeros_like(leaf) if gate and names[-1] == "kernel" else leaf

    params = jax.tree_util.tree_map_with_path(blind, network.variables["params"])
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype(np.float32)
    order = []

    @jax.jit
    def compute(variables):
        found = gate_values(network.model, variables, images)
        order[:] = found
        return found

    found = compute({**network.variables, "params": params})
    modules = ["stage1/layer1", "transition1", "stage2/layer1"]
    assert order == [(module, kind) for module in modules for kind in ("forget", "update")]
    for module in modules:
        part = params
        for name in module.split("/"):
            part = part[name]
        forget = sigmoid(part["forget_gate"]["linear2"]["bias"])
        heads = [part["update_gate"][f"head_{k}"]["bias"] for k in ("3x3", "5x5")]
        update = np.exp(heads[0]) / np.exp(heads).sum(axis=0)
        np.testing.assert_allclose(found[module, "forget"], [forget] * 3, rtol=1e-5)
        np.testing.assert_allclose(found[module, "update"], [update] * 3, rtol=1e-5)


def test_statistics_are_those_of_all_values_of_the_test_set(network, found):
    batches = evaluation_batches(network, make_mesh())
    preprocess = data.make_preprocess(network.config.data, network.info)
    values, labels = [], []

    @jax.jit
    def captured(images):
        _, state = network.model.apply(
            network.variables, images, capture_intermediates=True, mutable=["intermediates"]
        )
        gates = state["intermediates"]["transition1"]
        heads = [gates["update_gate"][f"head_{k}"]["__call__"][0] for k in ("3x3", "5x5")]
        return gates["forget_gate"]["__call__"][0], jax.nn.softmax(jnp.stack(heads), axis=0)[0]

    for batch in batches:
        images = preprocess(batch, train=False)
        mask = np.asarray(batch["mask"])
        values.append([np.asarray(v, np.float64)[mask, 0, 0] for v in captured(images)])
        labels.append(np.asarray(batch["label"])[mask])
    labels = np.concatenate(labels)
    assert len(labels) == 360
    for kind, parts in zip(("forget", "update"), zip(*values, strict=True), strict=True):
        parts = np.concatenate(parts)
        gate = found["transition1", kind]
        numbers = describe(gate)
        assert numbers["mean"] == pytest.approx(parts.mean(), abs=1e-6)
        assert numbers["std"] == pytest.approx(parts.std(), abs=1e-6)
        assert numbers["std_channels"] == pytest.approx(parts.mean(axis=0).std(), abs=1e-6)
        assert numbers["std_images"] ** 2 == pytest.approx(parts.var(axis=0).mean(), abs=1e-6)
        np.testing.assert_allclose(
            quantiles(gate.histogram), np.quantile(parts, QUANTILES), atol=2e-3
        )
        of_classes = [parts[labels == k].mean() for k in range(10)]
        np.testing.assert_allclose(gate.of_classes / gate.images, of_classes, rtol=1e-5)
        assert numbers["std_classes"] == pytest.approx(np.std(of_classes), abs=1e-6)


def test_quantiles_lie_where_the_values_are():
    values = np.repeat([0.2005, 0.8005], [60, 40])
    histogram = np.histogram(values, 1000, (0, 1))[0]
    low = 0.2 + 0.001 * np.array([0.05, 0.25, 0.5]) / 0.6
    high = 0.8 + 0.001 * (np.array([0.75, 0.95]) - 0.6) / 0.4
    np.testing.assert_allclose(quantiles(histogram), [*low, *high])


def test_the_command_writes_tables_and_a_picture(network, found, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gates, "gate_statistics", lambda *_: found)
    gates.run(network, make_parser("analyse").parse(["gates", "--workdir=w"]), tmp_path)
    assert "360 images" in capsys.readouterr().out
    with (tmp_path / "gates.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    for row in rows:
        assert 0 < float(row["q05"]) < float(row["q50"]) < float(row["q95"]) < 1
    with (tmp_path / "gates_classes.csv").open() as file:
        assert sum(int(row["images"]) for row in csv.DictReader(file)) == 6 * 360
    assert (tmp_path / "gates.png").read_bytes().startswith(b"\x89PNG")


def test_networks_may_have_gates_of_one_kind(data_dir, tmp_path):
    network = restored(data_dir, "resnet_cifar", stage_depths=(1, 1), attention="forget_gate")
    gates.run(network, make_parser("analyse").parse(["gates", "--workdir=w"]), tmp_path)
    with (tmp_path / "gates.csv").open() as file:
        assert {row["gate"] for row in csv.DictReader(file)} == {"forget"}


def test_networks_without_gates_are_refused(data_dir, tmp_path):
    network = restored(data_dir, "sparsenet", depth=10, growth_rate=4)
    with pytest.raises(UserError, match="sparsenet has no gates; HCGNet has"):
        gates.run(network, SimpleNamespace(workdir="w", data_dir=None), tmp_path)
