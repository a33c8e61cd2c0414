"""Networks as feature pyramids, compared with the endpoints of the same network as a classifier."""

from functools import partial

import jax
import numpy as np
import pytest
from flax import traverse_util

from aggnets_jax import create_model
from aggnets_jax.errors import UserError
from aggnets_jax.layers.batch_norm import BatchNorm
from aggnets_jax.models.registry import input_shape
from tests.marks import slow_but
from tests.models.test_sparsenet import jit
from tests.models.tiny import TINY
from tests.models.variables import random_variables, starting_from_zeros
from tests.patterns import one_line_error

FAST = ("sparsenet_bc",)

# Parts of the names of families in which something averages over all positions, or is normalised
# by them: dilation adds positions to these.
AVERAGING = ("aognet", "cbam", "se", "sk", "hcgnet", "efficientnet", "ds", "fpnasnet", "mobilenet")

# Families whose subsampling can't be replaced by dilation.
UNDILATED = ("all_cnn_c", "nasnet", "amoebanet", "pnasnet", "enasnet")


def normalised(variables, path, x, epsilon):
    """BN(x) by running averages, in float64."""
    params, averages = variables["params"], variables["batch_stats"]
    for name in path:
        params, averages = params[name], averages[name]
    mean, var = (np.asarray(averages[name], np.float64) for name in ("mean", "var"))
    x = (np.asarray(x, np.float64) - mean) / np.sqrt(var + epsilon)
    return x * params["scale"] + params["bias"]


def made(family, **arguments):
    """The family's tiny network with random variables, its levels, and an image."""
    network = create_model(family, 10, **TINY[family][0])
    if getattr(network, "pool", None) == "flatten":
        network = network.clone(pool="global")
    side = 64 if input_shape(family)[0] > 32 else 32
    levels = create_model(family, 10, features_only=True, **TINY[family][0], **arguments)
    images = np.random.default_rng(0).standard_normal((1, side, side, 3)).astype(np.float32)
    return network, random_variables(network, side, np.float32), levels, images


def is_norm(module, method):
    return type(module) is BatchNorm and method == "__call__"


@pytest.mark.parametrize("family", slow_but(TINY, FAST))
def test_levels_are_the_classifier_s_endpoints(family):
    network, variables, levels, images = made(family)
    run = partial(network.apply, capture_intermediates=is_norm, mutable=["intermediates"])
    (_, endpoints), found = jit(run)(variables, images)
    norms = traverse_util.flatten_dict(found.get("intermediates", {}))
    given = jit(levels.apply)(levels.pretrained(variables), images)
    for info, level in zip(levels.feature_info, given, strict=True):
        endpoint = endpoints[info.endpoint]
        assert level.shape[1:] == (*[images.shape[1] // info.stride] * 2, info.channels)
        # A normalisation that reads the endpoint, if one does, known by its values. A block with a
        # projected shortcut may have two.
        readers = []
        for (*path, _), (output,) in norms.items():
            if output.shape == endpoint.shape:
                expected = normalised(variables, path, endpoint, 1e-3 if family == "dpn" else 1e-5)
                if np.allclose(expected, output, rtol=1e-3, atol=1e-4):
                    readers.append(np.maximum(expected, 0))
        distances = [np.abs(level - expected).max() for expected in readers or [endpoint]]
        nearest = (readers or [endpoint])[int(np.argmin(distances))]
        np.testing.assert_allclose(level, nearest, rtol=1e-3, atol=1e-4)


def test_preactivated_levels_are_normalised_as_by_hcgnet_s_authors():
    levels = create_model("hcgnet", 10, features_only=True, **TINY["hcgnet"][0])
    readers = {name: "/".join(path) for name, path in levels.backbone.readers.items()}
    assert readers == {
        "stem": "stage1/layer1/norm1",
        "stage1": "transition1/norm1",
        "stage2": "head_norm",
    }


@pytest.mark.parametrize("family", slow_but(TINY, FAST))
def test_dilated_levels_are_the_same_at_the_positions_of_the_original(family):
    stride = 4 if input_shape(family)[0] > 32 else 1
    if family.startswith(UNDILATED):
        with pytest.raises(UserError, match="can't keep an output_stride of"):
            made(family, output_stride=8 if stride == 4 else 1)  # NASNet's least is 8
        return
    _, variables, dilated, images = made(family, output_stride=stride)
    *_, levels, _ = made(family)
    variables = levels.pretrained(variables)
    fine, coarse = (jit(each.apply)(variables, images) for each in (dilated, levels))
    infos = zip(dilated.feature_info, levels.feature_info, fine, coarse, strict=True)
    for now, before, level, original in infos:
        assert now.stride == min(before.stride, stride)
        assert level.shape[1] == images.shape[1] // now.stride
        rate = before.stride // now.stride
        if not any(part in family for part in AVERAGING):
            np.testing.assert_allclose(
                level[:, ::rate, ::rate], original, rtol=1e-3, atol=1e-4, err_msg=now.endpoint
            )


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        (
            "densenet_bc16_k4",
            {},
            [("stem", 8, 1), ("stage1", 16, 1), ("stage2", 16, 2), ("stage3", 16, 4)],
        ),
        # The last stage of each stride; what comes before stride 4 is level 0, as in timm.
        pytest.param(
            "efficientnet_b0",
            {"out_indices": (0, 1, 4)},
            [("stage1", 16, 2), ("stage2", 24, 4), ("stage7", 320, 32)],
            marks=pytest.mark.slow,
        ),
        (
            "resnet18",
            {"out_indices": (1, 2, 3, 4), "output_stride": 8},
            [("stage1", 64, 4), ("stage2", 128, 8), ("stage3", 256, 8), ("stage4", 512, 8)],
        ),
    ],
)
def test_levels_are_known_without_running(name, arguments, expected):
    with starting_from_zeros():
        model = create_model(name, features_only=True, **arguments)
        assert [tuple(info) for info in model.feature_info] == expected


@pytest.mark.slow
def test_recomputed_layers_give_the_same_levels():
    # The normalisation of a stage is inside a layer, whose inputs have other names there.
    _, variables, levels, images = made("preact_resnet")
    recomputed = create_model(
        "preact_resnet", 10, features_only=True, remat="layer", **TINY["preact_resnet"][0]
    )
    taken = levels.pretrained(variables)
    for train in (False, True):
        run = partial(levels.apply, train=train, mutable=["batch_stats"])
        again = partial(recomputed.apply, train=train, mutable=["batch_stats"])
        expected, found = jit(run)(taken, images), jit(again)(taken, images)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), found, expected)


def test_frozen_stages_get_no_gradient_and_keep_their_averages():
    _, variables, levels, images = made(
        "sparsenet_bc", frozen_stages=1, evaluated_norms=["stage3/layer1/*"]
    )
    taken = levels.pretrained(variables)

    def loss(params):
        found, updated = levels.apply(
            {**taken, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        return sum((level**2).sum() for level in found), updated["batch_stats"]

    gradients, averages = jax.jit(jax.grad(loss, has_aux=True))(taken["params"])
    gradients, averages, before = map(
        traverse_util.flatten_dict, (gradients, averages, taken["batch_stats"])
    )
    for path, gradient in gradients.items():
        assert bool((gradient != 0).any()) != (path[0] in ("stem_conv", "stage1")), path
    for path, average in averages.items():
        kept = path[0] == "stage1" or path[:2] == ("stage3", "layer1")
        assert bool((average == before[path]).all()) == kept, path


def test_mistakes_are_told_in_a_line():
    features = partial(create_model, "sparsenet_bc16_k4", features_only=True)
    with pytest.raises(UserError, match="features_only must be True or False, got 'x'"):
        features(features_only="x")
    with pytest.raises(UserError, match=r"level of 'sparsenet_bc16_k4'.*4"):
        features(out_indices=(1, 4))
    with pytest.raises(UserError, match="ascending numbers"):
        features(out_indices=(2, 1))
    with pytest.raises(UserError, match="must be one of 1, 2, 4, got 8"):
        features(output_stride=8)
    with pytest.raises(UserError, match="frozen_stages"):
        features(frozen_stages=4)
    with pytest.raises(UserError, match="normalisation 'stage9/\\*'"):
        features(evaluated_norms=["stage9/*"])
    with pytest.raises(UserError, match="scan=False"):
        features(scan=True)
    with pytest.raises(UserError, match="set features_only=True"):
        create_model("sparsenet_bc16_k4", out_indices=(1, 2))


@pytest.mark.parametrize("indices", [1, "12", (1.0,), (True,)])
def test_levels_are_whole_numbers(indices):
    keywords = {"features_only": True, "out_indices": indices}
    message = one_line_error(create_model, "resnet18", **keywords)
    assert message.startswith("out_indices must be numbers of levels such as (1, 2), got ")
