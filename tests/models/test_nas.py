"""The cells of architecture search: topologies whose links carry operations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax import create_model, model_info
from aggnets_jax.connectivity.links import collection, find_links, masks_without
from aggnets_jax.errors import UserError
from aggnets_jax.models.flops import count
from aggnets_jax.models.nas_cells import CELLS, read_cell
from tests.marks import mostly_slow
from tests.models.variables import random_variables, starting_from_zeros
from tests.patterns import one_line_error

SIZE = 8


def tiny(family="nasnet_a_cifar", **fields):
    return create_model(family, 3, num_cells=1, features=4, **fields)


def test_a_cell_is_read_as_written():
    wiring = read_cell("nasnet_a", CELLS["nasnet_a"][0])
    # h5 reads h1 twice, on one link.
    assert wiring.topology.sources[1:] == (
        (0, 1),
        (1,),
        (0, 1),
        (1,),
        (0,),
        (1, 2, 3, 4, 5, 6),
    )
    carried = dict(wiring.carried)
    assert [(op.number, op.operation) for op in carried[5, 1]] == [(6, "avg3"), (7, "avg3")]
    assert [(op.number, op.operation) for op in carried[6, 0]] == [(8, "sep3"), (9, "id")]


@pytest.mark.parametrize("cell", CELLS)
def test_each_cell_has_ten_operations(cell):
    for text in CELLS[cell]:
        wiring = read_cell(cell, text)
        assert sum(len(operations) for _, operations in wiring.carried) == 10


@pytest.mark.slow
def test_links_of_cells_can_be_cut():
    model = tiny()
    variables = random_variables(model, SIZE, np.float32)
    images = np.random.default_rng(1).standard_normal((2, SIZE, SIZE, 3)).astype(np.float32)
    with starting_from_zeros():
        stages = find_links(model, (SIZE, SIZE, 3))
    assert list(stages) == [f"cell{i}/nodes" for i in range(5)]

    @jax.jit
    def logits(variables, masks):
        return model.apply({**variables, **collection(masks)}, images)[0]

    def without(*links):
        return logits(variables, masks_without(stages, [("cell2/nodes", link) for link in links]))

    np.testing.assert_allclose(without(), model.apply(variables, images)[0], rtol=1e-5)
    assert not np.allclose(without((2, 0)), without())
    # Without its links h2 is 0, and so it does not matter whether the output reads it.
    np.testing.assert_allclose(without((2, 0), (2, 1)), without((2, 0), (2, 1), (7, 2)), rtol=1e-5)


# Sizes with the auxiliary head, which NAO prints as 50.9M, 52.7M and 53.0M.
@mostly_slow(
    ("name", "classes", "params"),
    [
        ("nasnet_a_cifar_n6_f128", 100, 50_875_720),
        ("enasnet_cifar_n6_f128", 100, 52_669_256),
        ("pnasnet_cifar_n6_f128", 10, 52_960_404),
    ],
    quick=(0,),
)
def test_sizes_with_the_auxiliary_head(name, classes, params):
    with starting_from_zeros():
        parts = count(create_model(name, classes, auxiliary_weight=0.4), (32, 32, 3)).values()
    assert sum(part.params for part in parts) == params


def test_an_auxiliary_head_without_its_cell_is_told():
    assert tiny("pnasnet_cifar").plan
    message = one_line_error(
        model_info, "pnasnet_cifar", num_cells=1, features=4, auxiliary_weight=0.4
    )
    assert message == "the auxiliary classifier needs a second cell in the last stage"


@pytest.mark.slow
def test_drop_path_spares_identities_and_evaluation():
    plain, dropping = tiny(), tiny(drop_path=0.5)
    variables = random_variables(plain, SIZE, np.float32)
    images = np.random.default_rng(1).standard_normal((2, SIZE, SIZE, 3)).astype(np.float32)
    np.testing.assert_array_equal(
        plain.apply(variables, images)[0], dropping.apply(variables, images)[0]
    )

    def train(model, seed):
        keys = {"dropout": jax.random.key(seed)}
        return model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=keys)[0][0]

    assert not jnp.allclose(train(dropping, 0), train(dropping, 1))
    np.testing.assert_array_equal(train(plain, 0), train(plain, 1))


def test_any_pattern_makes_a_cell():
    model = tiny(topology="dense", operation="c1")
    assert {topology.name for topology in model.topologies} == {"dense"}
    with pytest.raises(UserError, match=r"nearest: .*sep3"):
        tiny(topology="dense", operation="sep4")
