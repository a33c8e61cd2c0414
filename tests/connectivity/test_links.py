"""Masks of links: the effect of a cut link, for every kind of aggregation and of network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from aggnets_jax import create_model
from aggnets_jax.connectivity.aggregation import make_aggregation
from aggnets_jax.connectivity.links import all_links, collection, find_links, masks_without
from aggnets_jax.connectivity.stage import Stage
from aggnets_jax.connectivity.unit import make_layer
from aggnets_jax.errors import UserError
from aggnets_jax.models.registry import list_families
from aggnets_jax.runtime.compilation import barrier_on_cpu
from tests.connectivity.test_stage import jit
from tests.models.tiny import TINY
from tests.models.variables import random_variables, starting_from_zeros

# One of each way to aggregate, and of each kind of unit that reads what is aggregated.
KINDS = {
    "sparsenet": {},
    "densenet_bc": {},
    "sparsenet_sum": {},
    "preact_resnet": {"aggregation": "concat"},
    "densenet_imagenet": {"aggregation": "mean"},
    "hcgnet": {},
    "dsnet_cifar": {},
    "dsnet_cifar_a": {},
    "wrn": {},
    "mdnet": {},
    "seqresnet": {},
    "mixnet": {},
    "dpn": {},
    "fractalnet": {},
    "hardnet": {},
    "res2net": {},
    "highway": {},
}


def network(family, **changes):
    """Make the tiny network of a family, its images, variables and stages."""
    arguments, side = TINY[family]
    model = create_model(family, 3, **{**arguments, **KINDS.get(family, {}), **changes})
    images = np.random.default_rng(1).normal(size=(2, side, side, 3)).astype(np.float32)
    return model, images, random_variables(model, side, np.float32), stages_of(model, side)


@functools.cache
def stages_of(model, side):
    with starting_from_zeros():
        return find_links(model, (side, side, 3))


@functools.cache  # many tests mask the links of one network
def logits_of(model, jit=jit):
    def compute(variables, images, masks):
        return model.apply({**variables, **collection(masks)}, images)[0]

    return jit(compute)


@functools.cache
def plain_logits_of(model, jit=jit):
    return jit(lambda variables, images: model.apply(variables, images)[0])


def quick_ones(families):
    quick = ("densenet_bc", "dsnet_cifar", "fractalnet", "hardnet", "highway", "sparsenet", "wrn")
    return [f if f in quick else pytest.param(f, marks=pytest.mark.slow) for f in families]


def with_and_without_ones(family, jit):
    model, images, variables, stages = network(family)
    ones = masks_without(stages, [])
    masked = logits_of(model, jit)(variables, images, ones)
    return masked, plain_logits_of(model, jit)(variables, images)


@pytest.mark.parametrize("family", quick_ones(list_families()))
def test_ones_change_nothing_to_the_bit(family):
    np.testing.assert_array_equal(*with_and_without_ones(family, jit))


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("family", sorted(KINDS))
def test_ones_change_nothing_to_the_bit_when_compiled_as_usual(family):
    masked, plain = with_and_without_ones(family, jax.jit)
    if family in ("densenet_bc", "hcgnet", "highway", "mixnet"):
        # XLA:CPU compiles the program with masks to other code, which may round differently in the
        # last place. Whether it does depends on the instructions: on one machine with AVX-512 the
        # outputs were equal, and differed by 1e-7 with --xla_cpu_max_isa=AVX, which has no fused
        # products and additions. So these are not the cause, or not the only one. One output of
        # densenet_bc differed by 1.4e-7 on another machine.
        np.testing.assert_allclose(masked, plain, rtol=1e-6)
    else:
        np.testing.assert_array_equal(masked, plain)


class _WithoutMasks(Stage):
    """A stage that knows nothing of masks."""

    @nn.compact
    def __call__(self, *inputs):
        topology, aggregate = self.topology, make_aggregation(self.aggregation)
        read_later = any(0 in sources for sources in topology.sources[1:])
        outputs = list(inputs)
        for layer in range(1, topology.depth - len(inputs) + 2):
            position = layer + len(inputs) - 1
            read = aggregate(outputs, topology.sources_of(position), position)
            unit = make_layer(self.unit, layer)
            output = unit(outputs[-1], read) if self.shortcuts else unit(read)
            outputs.append(barrier_on_cpu(output))
            if layer == 1 and self.projection is not None and read_later:
                outputs[0] = self.projection(name="projection")(inputs[0])
        if self.shortcuts:
            return outputs[-1]
        return aggregate(outputs, topology.output_sources, topology.depth + 1)


@pytest.mark.parametrize("family", quick_ones(sorted(KINDS)))
def test_without_masks_the_program_is_what_it_was(family, monkeypatch):
    model, images, variables, stages = network(family)

    def program(variables):
        return jax.jit(model.apply).lower(variables, images).as_text()

    ours = program(variables)
    assert program({**variables, "links": {}}) == ours
    assert program({**variables, **collection(masks_without(stages, []))}) != ours
    monkeypatch.setattr(Stage, "__call__", _WithoutMasks.__call__)
    assert program(variables) == ours


# The others have shortcuts only: besides them, a layer reads the one before.
AGGREGATES = sorted(set(KINDS) - {"dsnet_cifar", "dsnet_cifar_a", "wrn", "highway"})


@pytest.mark.parametrize("family", quick_ones(AGGREGATES))
def test_a_layer_whose_links_are_cut_has_no_effect_at_all(family):
    model, images, variables, stages = network(family)
    # In the last stage that has such links: gradients need not go further back.
    name, stage = next(
        (n, s)
        for n, s in reversed(stages.items())
        if s.topology.depth > 1 and s.links[-1][0] == s.topology.depth + 1
    )
    layer = min(n for n, _ in stage.links)
    cut = [(name, link) for link in stage.links if link[1] == layer]
    assert cut

    params = traverse_util.flatten_dict(variables["params"], sep="/")
    parts = {path: value for path, value in params.items() if path.startswith(f"{name}/layer1/")}
    assert parts

    def total(parts, masks):
        tree = traverse_util.unflatten_dict({**params, **parts}, sep="/")
        logits, _ = model.apply({**variables, "params": tree, **collection(masks)}, images)
        return jnp.sum(logits**2)

    gradients = jit(jax.grad(total))

    def largest(cut):
        found = jax.tree.leaves(gradients(parts, masks_without(stages, cut)))
        return max(float(jnp.max(jnp.abs(leaf))) for leaf in found)

    assert largest(cut) == 0
    assert largest([]) > 0


def _rows(kernel, first, count, weight):
    return kernel.at[..., first : first + count, :].multiply(weight)


@pytest.mark.parametrize("weight", [0.0, 0.3])
@pytest.mark.parametrize("link", [(1, 0), (3, 1), (4, 0), (4, 2)])
@pytest.mark.parametrize("stage", ["stage1", "stage3"])
def test_a_concatenated_link_is_rows_of_the_readers_kernel(stage, link, weight):
    """Masks act after the activation, as if the first convolution weighed the link."""
    model, images, variables, stages = network("densenet_bc", depth=22, compression=1.0)
    assert stages[stage].topology.depth == 3
    layer, source = link
    widths = [8 if stage == "stage1" else 8 + 3 * 4 * 2, 4, 4, 4]
    masks = masks_without(stages, [])
    masks[stage][link] = weight
    masked = logits_of(model)(variables, images, masks)

    params = jax.tree.map(jnp.asarray, variables["params"])
    reader = (
        params[stage][f"layer{layer}"]["conv1"]
        if layer <= 3
        else (params["transition1"]["conv"] if stage == "stage1" else params["classifier"])
    )
    reader["kernel"] = _rows(reader["kernel"], sum(widths[:source]), widths[source], weight)
    weighed = plain_logits_of(model)({**variables, "params": params}, images)
    np.testing.assert_allclose(masked, weighed, rtol=1e-4, atol=1e-5)
    plain = plain_logits_of(model)(variables, images)
    assert np.abs(masked - plain).max() > 1e-3


@pytest.mark.parametrize("family", ["sparsenet_sum", "preact_resnet", "resnet_dense_cifar"])
def test_a_sum_without_a_link_is_the_sum_of_the_others(family):
    model, images, variables, stages = network(family, topology="dense", aggregation="sum")
    name, stage = list(stages.items())[-1]
    link = (stage.topology.depth, 0)
    masked = logits_of(model)(variables, images, masks_without(stages, [(name, link)]))

    edges = [{"edges": each.topology.links} for each in stages.values()]
    edges[-1] = {"edges": stage.topology.remove([link]).links}
    arguments = {"topology": "custom", "topology_args": edges, "aggregation": "sum"}
    without, *_ = network(family, **arguments)
    expected = plain_logits_of(without)(variables, images)
    np.testing.assert_allclose(masked, expected, rtol=1e-4, atol=1e-5)
    plain = plain_logits_of(model)(variables, images)
    assert np.abs(masked - plain).max() > 1e-3


@pytest.mark.parametrize("family", ["dsnet_cifar", "dsnet_cifar_a"])
@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_a_dense_shortcut_is_its_weighted_term(family, weight):
    model, images, variables, stages = network(family)
    masks = masks_without(stages, [])
    masks["stage2"][3, 1] = weight
    params = jax.tree.map(jnp.asarray, variables["params"])
    weights = params["stage2"]["weights3"]
    weights["weights"] = weights["weights"].at[1].multiply(weight)
    expected = plain_logits_of(model)({**variables, "params": params}, images)
    masked = logits_of(model)(variables, images, masks)
    np.testing.assert_allclose(masked, expected, rtol=1e-4, atol=1e-5)


def test_stages_within_blocks_are_found():
    *_, stages = network("mdnet")
    assert list(stages)[:2] == ["stage1", "stage1/layer1/layers"]
    assert stages["stage1"].links == ((1, 0), (2, 1))  # shortcuts: the output is the last layer
    inner = stages["stage1/layer1/layers"]
    assert (inner.topology.depth + 1, 0) in inner.links
    *_, stages = network("seqresnet")
    # Slices of the input are sources, and no layers.
    groups = stages["stage1/layer1/seqconv_a/groups"]
    assert min(layer for layer, _ in groups.links) == len(
        {source for _, source in groups.links if source < min(n for n, _ in groups.links)}
    )


def test_names_of_links_are_checked():
    *_, stages = network("sparsenet")
    for cut, expected in [
        (("stage9", (1, 0)), "nearest"),
        (("stage1", (9, 0)), "stage1 has no layer 9 with links; allowed: 1..3"),
        (("stage1", (1, 3)), "stage1: layer 1 does not read 3; allowed: 0"),
    ]:
        with pytest.raises(UserError, match=expected):
            masks_without(stages, [cut])
    assert len(all_links(stages)) == sum(len(stage.links) for stage in stages.values())


def test_masks_of_another_shape_are_refused():
    model, images, variables, stages = network("sparsenet")
    masks = masks_without(stages, []) | {"stage2": np.ones((3, 2), np.float32)}
    with pytest.raises(UserError, match=r"mask of stage2 has the shape \(3, 2\), not \(4, 3\)"):
        model.apply({**variables, **collection(masks)}, images)
