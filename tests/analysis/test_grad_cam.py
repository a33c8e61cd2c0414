"""Grad-CAM: gradients at endpoints against numbers, closed forms and other ways; the command."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

from aggnets_jax import create_model
from aggnets_jax.analysis.command import first_pictures
from aggnets_jax.analysis.grad_cam import grad_cam, grad_cam_grid, logits_behind
from aggnets_jax.errors import UserError
from aggnets_jax.evaluate import evaluation_batches
from aggnets_jax.main import main
from aggnets_jax.runtime.mesh import make_mesh, replicated
from aggnets_jax.workdir.restore import restore_network
from tests.connectivity.test_links import KINDS
from tests.connectivity.test_stage import jit
from tests.models.tiny import TINY
from tests.models.variables import random_variables

# One that concatenates, one that adds, one with gates, and one whose groups read each other; with
# an endpoint and the modules that read it.
READERS = {
    "sparsenet": ("stage2", ("transition2",)),
    "resnet_cifar": ("stage1", ("stage2_opening", "stage2_projection")),
    "hcgnet": ("stage1", ("transition1",)),
    "seqresnet": ("stage1", ("downsample1",)),
}
SLOWER = ("resnet_cifar", "hcgnet", "seqresnet")


def network(family, dtype=np.float32):
    arguments, side = TINY[family]
    model = create_model(family, 3, **arguments, dtype=dtype)
    images = np.random.default_rng(1).normal(size=(2, side, side, 3)).astype(dtype)
    return model, random_variables(model, side, dtype), images


@pytest.fixture(scope="module")
def sparsenet():
    return network("sparsenet")


def shifted(model, variables, images, readers, shift):
    """Return the logits when `shift` is added to the input of some modules."""

    def add(call, arguments, keywords, context):
        if context.method_name == "__call__" and context.module.path in [(r,) for r in readers]:
            x, *rest = arguments
            # SeqResNet's features are raw and activated; the endpoint is the latter.
            x = x._replace(activated=x.activated + shift) if isinstance(x, tuple) else x + shift
            arguments = (x, *rest)
        return call(*arguments, **keywords)

    with nn.intercept_methods(add):
        return model.apply(variables, images)[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "family",
    ["sparsenet", *(pytest.param(f, marks=pytest.mark.slow) for f in SLOWER)],
)
def test_the_gradient_is_that_of_finite_differences(family):
    """Modules after the endpoint are called with other features."""
    endpoint, readers = READERS[family]
    with jax.enable_x64(True):
        model, variables, images = network(family, np.float64)
        features = model.apply(variables, images)[1][endpoint]
        random = np.random.default_rng(2)
        direction, weights = random.normal(size=features.shape), random.normal(size=(2, 3))

        @jit
        def gradient(variables, images, features):
            behind = logits_behind(model, variables, images, endpoint)
            return jax.grad(lambda x: jnp.sum(weights * behind(x)))(features)

        @jit
        def total(variables, images, step):
            shift = step * direction
            return jnp.sum(weights * shifted(model, variables, images, readers, shift))

        step = 1e-6
        difference = total(variables, images, step) - total(variables, images, -step)
        slope = np.sum(gradient(variables, images, features) * direction)
        assert np.isclose(slope, difference / (2 * step), rtol=1e-6)
        assert abs(slope) > 1e-3


@pytest.mark.parametrize("classes", [None, (2, 1)])
def test_of_the_last_map_it_is_the_classifiers_weights(sparsenet, classes):
    """Before a global average alpha_k is w_kc / (h w), for any features."""
    model, variables, images = sparsenet
    given = None if classes is None else np.int32(classes)
    maps = jit(lambda v, x, c: grad_cam(model, v, x, classes=c))(variables, images, given)
    logits, endpoints = jit(model.apply)(variables, images)
    np.testing.assert_allclose(maps.logits, logits, rtol=1e-5)
    chosen = np.argmax(logits, -1) if classes is None else np.array(classes)
    np.testing.assert_array_equal(maps.classes, chosen)

    features = np.asarray(endpoints["pre_logits_2d"], np.float64)
    kernel = np.asarray(variables["params"]["classifier"]["kernel"], np.float64)
    sums = np.stack([x @ kernel[:, c] for x, c in zip(features, chosen, strict=True)])
    expected = np.maximum(sums, 0) / np.prod(features.shape[1:3])
    heat = maps.by_endpoint["pre_logits_2d"]
    np.testing.assert_allclose(heat, expected, rtol=1e-4, atol=1e-6)
    assert np.any(expected > 0) and (classes is None or np.any(sums < 0))


def test_of_any_map_it_is_the_mean_gradient_times_the_features(sparsenet):
    """Plain NumPy, from the gradient that the other test compares with differences."""
    model, variables, images = sparsenet
    maps = jit(lambda v, x: grad_cam(model, v, x, ("stage1", "stage3")))(variables, images)
    _, endpoints = jit(model.apply)(variables, images)
    for name, heat in maps.by_endpoint.items():

        @jit
        def pull_back(features, cotangent, name=name):
            behind = logits_behind(model, variables, images, name)
            return jax.vjp(behind, features)[1](cotangent)[0]

        gradient = pull_back(endpoints[name], jax.nn.one_hot(maps.classes, 3))
        for n, features in enumerate(np.asarray(endpoints[name])):
            expected = np.zeros(features.shape[:2])
            for k in range(features.shape[-1]):
                expected += np.mean(gradient[n, ..., k]) * features[..., k]
            np.testing.assert_allclose(heat[n], np.maximum(expected, 0), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(KINDS))
def test_maps_are_cut_where_all_features_go_through(family):
    """A change of the image changes the logits as much as its change of the endpoint does."""
    model, variables, images = network(family)
    change = np.random.default_rng(3).normal(size=images.shape).astype(np.float32)

    @jit
    def compute(variables, images, change):
        (logits, endpoints), (slope, slopes) = jax.jvp(
            lambda x: model.apply(variables, x), (images,), (change,)
        )
        maps = {name: x for name, x in endpoints.items() if x.ndim == 4}
        behind = {
            name: jax.jvp(
                logits_behind(model, variables, images, name), (maps[name],), (slopes[name],)
            )
            for name in maps
        }
        return logits, slope, behind

    logits, slope, behind = compute(variables, images, change)
    assert {"stage1", "pre_logits_2d"} < set(behind)
    for name, (again, through) in behind.items():
        np.testing.assert_allclose(again, logits, rtol=1e-3, atol=1e-4)
        same = np.allclose(through, slope, rtol=1e-2, atol=1e-3 * np.abs(slope).max())
        # The first shortcut of these adds what was not activated yet.
        assert same != (family.startswith("seqres") and name == "stem"), name


def read(file):
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def look(workdir, output, *flags):
    code = main(["analyse", "grad_cam", f"--workdir={workdir}", f"--output={output}", *flags])
    return code, read(output / "grad_cam.csv") if code == 0 else None


ENDPOINTS = ("--endpoint=stage2", "--endpoint=stem", "--count=2")


def test_the_command_tells_of_each_image_and_endpoint(workdir, tmp_path, capsys):
    code, rows = look(workdir, tmp_path, *ENDPOINTS, "--class=true")
    assert code == 0
    assert [(row["image"], row["endpoint"]) for row in rows] == [
        (image, endpoint) for image in "01" for endpoint in ("stage2", "stem")
    ]
    assert all(row["class"] == row["true"] for row in rows)
    assert {(row["endpoint"], row["height"]) for row in rows} == {("stem", "8"), ("stage2", "4")}
    for row in rows:
        if float(row["largest"]) > 0:
            side, place = int(row["height"]), float(row["row"])
            assert (place + 0.5) * side / 8 % 1 == 0.5
    with Image.open(tmp_path / "grad_cam.png") as picture:
        assert min(picture.size) > 300
    assert "grad_cam.png" in capsys.readouterr().out


@pytest.mark.slow
def test_files_are_looked_at_as_images_of_the_split(workdir, tmp_path, capsys):
    _, rows = look(workdir, tmp_path, *ENDPOINTS, "--class=7")
    restored = restore_network(workdir, "latest", replicated(make_mesh()))
    batch = next(iter(evaluation_batches(restored, make_mesh())))
    (tmp_path / "images").mkdir()
    for n in range(3):
        Image.fromarray(np.asarray(batch["image"][n, ..., 0])).save(tmp_path / f"images/{n}.png")
    files = f"--images={tmp_path / 'images'}"
    _, of_files = look(workdir, tmp_path, *ENDPOINTS, "--class=7", files)
    assert any(float(row["largest"]) > 0 for row in rows)
    for row, of_file in zip(rows, of_files, strict=True):
        assert of_file["image"] == str(tmp_path / "images" / f"{row['image']}.png")
        assert of_file["true"] == ""
        assert row["class"] == of_file["class"] == "7"
        assert np.isclose(float(row["largest"]), float(of_file["largest"]), rtol=1e-5)


def test_the_grid_for_others(workdir):
    restored = restore_network(workdir, "latest", replicated(make_mesh()))
    figure = grad_cam_grid(restored, evaluation_batches(restored, make_mesh()), count=2)
    titles = [axes.get_title() for axes in figure.axes[:4]]
    assert titles == ["image", "pre_logits_2d, 2x2", "", ""]


def test_damaged_images_do_not_count():
    class Batches(list):
        num_examples, batch_size = 6, 4

    def batch(first, mask):
        numbers = np.arange(first, first + 4)
        images = np.broadcast_to(np.uint8(numbers)[:, None, None, None], (4, 2, 2, 1))
        return {"image": images, "label": numbers, "mask": np.array(mask, bool)}

    batches = Batches([batch(0, [0, 1, 0, 1]), batch(4, [1, 1, 0, 0])])
    pictures = first_pictures(batches, 3)
    assert pictures.names == ("1", "3", "4")
    assert pictures.labels.tolist() == pictures.images[:, 0, 0, 0].tolist() == [1, 3, 4]
    assert len(first_pictures(batches, 9).names) == 4
    with pytest.raises(UserError, match="all 6 images of the evaluation are damaged"):
        first_pictures(Batches([batch(0, [0] * 4)]), 3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--endpoint=stage22"], "unknown endpoint 'stage22'; nearest: stage2"),
        (["--endpoint=pre_logits"], "nearest: pre_logits_2d"),
        (["--class=11"], "unknown class '11'; nearest: 1"),
        (["--count=0"], "--count must be between 1 and 100, not 0"),
        (["--images=FOLDER/none.png"], "no file or folder FOLDER/none.png"),
        (["--images=FOLDER/a.png", "--class=true"], "of files the true classes are not known"),
        (["--images=FOLDER/a.png", "--data_dir=FOLDER"], "--data_dir is for the evaluation split"),
    ],
)
def test_bad_input_is_one_line(workdir, tmp_path, capsys, flags, message):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    flags = [flag.replace("FOLDER", str(tmp_path)) for flag in flags]
    assert look(workdir, tmp_path, *flags) == (2, None)
    captured = capsys.readouterr()
    assert message.replace("FOLDER", str(tmp_path)) in captured.err
    assert captured.err.count("\n") == 1 and captured.out == ""
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]
