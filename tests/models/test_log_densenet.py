"""Log-DenseNet: SparseNet under other links."""

import numpy as np
import pytest

from aggnets_jax import create_model
from tests.models.straight_line import jit
from tests.models.variables import model_info, random_variables
from tests.patterns import one_line_error


@pytest.mark.parametrize("kind", ["", "_bc"])
def test_base_two_is_sparsenet(kind):
    ours = create_model(f"log_densenet{kind}22_k4", 7)
    sparse = create_model(f"sparsenet{kind}22_k4", 7)
    assert {t.name for t in ours.topologies} == {"log_dense"}
    images = np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype(np.float32)
    variables = random_variables(ours, 8, np.float32)
    expected = jit(sparse.apply)(variables, images)[0]
    np.testing.assert_array_equal(jit(ours.apply)(variables, images)[0], expected)


def test_smaller_bases_read_more_up_to_a_densenet():
    def params(base):
        return model_info("log_densenet40_k8", topology_args={"base": base}).params

    sizes = [params(base) for base in (3.0, 2.0, 1.5, 1.1)]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 4
    assert sizes[-1] <= model_info("densenet40_k8").params


def test_links_of_base_one_and_a_half():
    (topology, *_) = create_model(
        "log_densenet", depth=40, growth_rate=8, topology_args={"base": 1.5}
    ).topologies
    # Distances 1, 1.5, 2.25, 3.375, 5.06, 7.59, 11.39.
    assert topology.sources_of(12) == (11, 10, 9, 7, 4, 1)


def test_names():
    built = create_model("log_densenet", depth=40, growth_rate=(8, 12, 16))
    assert built == create_model("log_densenet40_k8_12_16")
    assert create_model("log_densenet_bc100_k24") != create_model("log_densenet100_k24")
    assert "3n + 4, nearest 40" in one_line_error(create_model, "log_densenet41_k8")
