"""Links of cells, and-or blocks and Log-DenseNet V2 are cut, weighted and drawn like any other."""

import functools

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Arc

from aggnets_jax import create_model
from aggnets_jax.connectivity.drawing import draw_topology
from aggnets_jax.connectivity.links import collection, find_links, masks_without
from tests.marks import mostly_slow
from tests.models.tiny import TINY
from tests.models.variables import random_variables, starting_from_zeros

FAMILIES = ["amoebanet_a_cifar", "aognet", "log_densenet_v2"]


@functools.cache
def network(family):
    """Return the tiny network's variables, its stages, and its logits under masks."""
    arguments, side = TINY[family]
    model = create_model(family, 3, **arguments)
    images = np.random.default_rng(1).standard_normal((2, side, side, 3)).astype(np.float32)
    with starting_from_zeros():
        stages = find_links(model, (side, side, 3))

    @jax.jit
    def logits(variables, masks):
        return model.apply({**variables, **collection(masks)}, images)[0]

    return model, random_variables(model, side, np.float32), stages, logits


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_each_link_can_be_cut(family):
    model, variables, stages, logits = network(family)
    assert [stage.topology for stage in stages.values()] == list(model.topologies)
    whole = logits(variables, masks_without(stages, []))
    last = list(stages)[-1]
    assert len(stages[last].links) > 7
    for link in stages[last].links:
        assert np.abs(logits(variables, masks_without(stages, [(last, link)])) - whole).max() > 1e-6


def scaled(variables, path, collections, factors):
    """Return variables in which some leaves of a module are multiplied."""
    changed = jax.tree.map(lambda leaf: leaf, variables)
    for name, leaf, factor in zip(collections, ("scale", "bias", "mean"), factors, strict=True):
        part = functools.reduce(lambda tree, key: tree[key], path.split("/"), changed[name])
        part[leaf] = part[leaf] * factor
    return changed


def masked(family, stage, link, weight):
    _, variables, stages, logits = network(family)
    masks = masks_without(stages, [])
    masks[stage][link] = weight
    return logits(variables, masks)


def unmasked(family, variables):
    _, _, stages, logits = network(family)
    return logits(variables, masks_without(stages, []))


NORM = ("params", "params", "batch_stats")


@pytest.mark.slow
def test_a_weight_multiplies_the_operation_of_a_cell():
    # h3 = sep3 h1 + id h1 carries operation 2 on the link to h1; h5 = sep3 h0 + sep5 h2 carries 7.
    _, variables, *_ = network("amoebanet_a_cifar")
    weighed = scaled(variables, "cell4/nodes/op7/norm2", NORM, (0.3, 0.3, 1))
    np.testing.assert_allclose(
        masked("amoebanet_a_cifar", "cell4/nodes", (5, 2), 0.3),
        unmasked("amoebanet_a_cifar", weighed),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.slow
def test_a_weight_multiplies_the_root_of_an_and_or_block():
    # A normalisation of w y is one of y with 1/w of the mean and w times the scale.
    _, variables, stages, _ = network("aognet")
    stage = "stage4_block1"
    root = stages[stage].topology.output_sources[0]
    weighed = scaled(variables, f"{stage}_norm", NORM, (0.3, 1, 1 / 0.3))
    np.testing.assert_allclose(
        masked("aognet", stage, (stages[stage].topology.depth + 1, root), 0.3),
        unmasked("aognet", weighed),
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_weight_multiplies_the_rows_of_a_kernel_of_log_densenet_v2():
    # Layer 3 reads c, y_1 and y_2, whose four channels are the last of its kernel.
    _, variables, *_ = network("log_densenet_v2")
    weighed = jax.tree.map(lambda leaf: leaf, variables)
    kernel = weighed["params"]["stage3"]["layer3"]["conv1"]["kernel"].copy()
    kernel[:, :, -4:] *= 0.3
    weighed["params"]["stage3"]["layer3"]["conv1"]["kernel"] = kernel
    np.testing.assert_allclose(
        masked("log_densenet_v2", "stage3", (3, 2), 0.3),
        unmasked("log_densenet_v2", weighed),
        rtol=1e-4,
        atol=1e-5,
    )


@mostly_slow("family", FAMILIES, quick=(0,))
def test_their_topologies_are_drawn(family):
    model, *_ = network(family)
    for topology in set(model.topologies):
        axes = Figure().subplots()
        draw_topology(topology, axes)
        arcs = [patch for patch in axes.patches if isinstance(patch, Arc)]
        ends = {(arc.center[0] + arc.width / 2, arc.center[0] - arc.width / 2) for arc in arcs}
        assert ends == set(topology.links)
