import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax import create_model
from aggnets_jax.connectivity.links import collection, find_links, masks_without
from aggnets_jax.detection.backbone import make_backbone
from aggnets_jax.errors import UserError
from aggnets_jax.models.levels import Levels
from tests.models.variables import starting_from_zeros

IMAGES = jnp.asarray(np.random.default_rng(0).standard_normal((1, 64, 64, 3)), jnp.float32)


def shapes(backbone, size=64):
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    with starting_from_zeros():
        return jax.eval_shape(Levels(backbone).init_with_output, jax.random.key(0), images)


@pytest.mark.parametrize(
    ("name", "features"),
    [
        ("resnet18", (64, 128, 256, 512)),
        pytest.param("dsnet50", (256, 512, 1024, 2048), marks=pytest.mark.slow),
        pytest.param("densenet121", (256, 512, 1024, 1024), marks=pytest.mark.slow),
        pytest.param("efficientnet_b0", (24, 40, 112, 320), marks=pytest.mark.slow),
        pytest.param("hcgnet_b", (160, 368, 952, 1244), marks=pytest.mark.slow),
    ],
)
def test_networks_for_large_images_have_levels_of_strides_4_to_32(name, features):
    backbone = make_backbone(name)
    levels, variables = shapes(backbone)
    assert [level.shape for level in levels] == [
        (1, 64 // stride, 64 // stride, n)
        for stride, n in zip((4, 8, 16, 32), features, strict=True)
    ]
    assert "classifier" not in variables["params"]


def test_networks_for_small_images_have_a_level_of_each_stride():
    levels, _ = shapes(make_backbone("sparsenet_bc16_k4"), 32)
    assert [level.shape[1] for level in levels] == [32, 16, 8]


@pytest.mark.slow
def test_levels_of_residual_networks_are_the_endpoints():
    backbone = make_backbone("resnet18")
    levels, variables = Levels(backbone).init_with_output(jax.random.key(0), IMAGES)
    whole = create_model("resnet18").init(jax.random.key(0), IMAGES)
    whole = {k: {**whole[k], **variables[k]} for k in whole}
    _, endpoints = create_model("resnet18").apply(whole, IMAGES)
    for i, level in enumerate(levels, 1):
        np.testing.assert_allclose(level, endpoints[f"stage{i}"], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_levels_of_preactivated_networks_are_normalised_and_activated():
    backbone = make_backbone("sparsenet_bc16_k4")
    levels, variables = Levels(backbone).init_with_output(jax.random.key(0), IMAGES)
    scale = variables["params"]["head_norm"]["scale"]
    variables["params"]["head_norm"]["scale"] = 3 * scale
    # The transition behind the first level reads it, so that the other levels change, too.
    bias = variables["params"]["transition1"]["norm"]["bias"]
    now = Levels(backbone).apply(variables, IMAGES)
    np.testing.assert_allclose(now[2], 3 * levels[2], rtol=1e-5, atol=1e-5)
    variables["params"]["transition1"]["norm"]["bias"] = bias + 1.0
    now = Levels(backbone).apply(variables, IMAGES)
    assert all((level >= 0).all() for level in now)
    assert now[0].mean() > levels[0].mean()


@pytest.mark.slow
def test_stem_and_first_stage_get_no_gradient_and_the_rest_does():
    backbone = make_backbone("sparsenet_bc16_k4")
    levels = Levels(backbone)
    variables = levels.init(jax.random.key(0), IMAGES)

    def loss(params):
        return sum((x**2).sum() for x in levels.apply({**variables, "params": params}, IMAGES))

    for path, gradient in jax.tree.leaves_with_path(jax.grad(loss)(variables["params"])):
        names = tuple(key.key for key in path)
        frozen = names[0] in ("stem_conv", "stage1")
        assert (names in backbone.frozen_paths) == frozen
        # The normalisation behind the first stage is trained.
        assert bool(jnp.any(gradient != 0)) != frozen, names


def test_the_weights_of_a_classifier_are_taken():
    backbone = make_backbone("sparsenet_bc16_k4")
    trained = create_model("sparsenet_bc16_k4", 7).init(jax.random.key(3), IMAGES)
    taken = backbone.pretrained(trained)
    wanted = Levels(backbone).init(jax.random.key(0), IMAGES)
    assert jax.tree.structure(taken) == jax.tree.structure(wanted)
    np.testing.assert_array_equal(
        taken["params"]["stem_conv"]["kernel"], trained["params"]["stem_conv"]["kernel"]
    )
    with pytest.raises(UserError, match="'params/head_norm/bias' must have the shape"):
        backbone.pretrained({**trained, "params": {**trained["params"], "head_norm": {}}})


def test_a_cut_link_of_a_stage_s_output_is_0_in_its_level():
    backbone = make_backbone("sparsenet_bc16_k4")
    levels, variables = Levels(backbone).init_with_output(jax.random.key(0), IMAGES)
    stages = find_links(backbone.network, (64, 64, 3))
    stage = stages["stage3"]
    last = [link for link in stage.links if link[0] == stage.topology.depth + 1]
    masks = masks_without(stages, [("stage3", last[0])])
    variables["params"]["head_norm"]["bias"] += 1.0  # BN(0) is not 0
    cut = Levels(backbone).apply({**variables, **collection(masks)}, IMAGES)
    np.testing.assert_array_equal(cut[0], levels[0])
    zero = (np.asarray(cut[2]) == 0).all(axis=(0, 1, 2))
    assert 0 < zero.sum() < len(zero)


def test_nothing_is_frozen_on_request():
    assert not make_backbone("resnet18", frozen=0).frozen_paths
    every = make_backbone("resnet18", frozen=4).frozen_paths
    _, variables = shapes(make_backbone("resnet18"))
    assert len(every) == len(jax.tree.leaves(variables["params"]))


def test_a_level_that_a_network_lacks_is_named():
    with pytest.raises(UserError, match="'stage5'; nearest: stage4"):
        make_backbone("resnet18", endpoints=["stage4", "stage5"])
    with pytest.raises(UserError, match=r"strides that double, got \(4, 16\)"):
        make_backbone("resnet18", endpoints=["stage1", "stage3"])
