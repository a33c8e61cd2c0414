import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax.detection.sampling import image_keys
from aggnets_jax.errors import UserError
from tests.detection import tiny
from tests.detection.scenes import RECORDS

NAMES = [record.name for record in RECORDS]
QUICK_FIRST = [NAMES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:])]


def step(detector, variables, scenes, number=0, keys=None):
    """Return losses by name, and the gradient of their sum."""
    images, sizes, objects = scenes
    if keys is None:
        keys = image_keys(jax.random.key(7), number, jnp.arange(len(images)))

    def loss(params):
        parts = detector.apply(
            {**variables, "params": params}, images, sizes, objects, keys, method=detector.losses
        )
        return sum(parts.values()), parts

    return jax.jit(jax.grad(loss, has_aux=True))(variables["params"])[::-1]


@pytest.mark.slow
@pytest.mark.parametrize("conventions", QUICK_FIRST)
def test_detections_have_static_shapes_and_lie_in_the_image(conventions):
    detector = tiny.detector(conventions=conventions)
    variables = tiny.variables(conventions=conventions)
    images, sizes, _ = tiny.scenes()
    sizes = sizes.at[0].set(jnp.array([20, 28]))
    detections, masks = jax.jit(detector.apply)(variables, images, sizes)
    assert detections.boxes.shape == (2, 6, 4)
    assert masks.shape == (2, 6, 28, 28)
    assert (detections.boxes[0] <= jnp.array([28, 20, 28, 20])).all()
    assert ((masks >= 0) & (masks <= 1)).all()
    assert set(np.unique(detections.labels)) <= {0, 1, 2}
    assert (detections.scores[detections.valid] > 0.05).all()


@pytest.mark.slow
@pytest.mark.parametrize("conventions", NAMES)
def test_losses_without_any_object_are_finite(conventions):
    detector = tiny.detector(conventions=conventions)
    variables = tiny.variables(conventions=conventions)
    parts, gradient = step(detector, variables, tiny.scenes(objects=False))
    assert parts.keys() == {"rpn_class", "rpn_box", "class", "box", "mask"}
    assert parts["rpn_box"] == parts["box"] == parts["mask"] == 0
    assert parts["rpn_class"] > 0
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(gradient))


@pytest.mark.slow
def test_both_methods_of_roi_align_give_the_same_step():
    results = [
        step(tiny.detector(roi_method=method), tiny.variables(), tiny.scenes())
        for method in ("gather", "matrices")
    ]
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_step_is_a_function_of_its_number():
    detector, variables = tiny.detector(), tiny.variables()
    first, again, other = (
        step(detector, variables, tiny.scenes(), number)[0] for number in (0, 0, 1)
    )
    assert first == again
    assert first["rpn_class"] != other["rpn_class"]


def test_groups_of_images_have_normalisers_of_their_own():
    def mean(values, counted):
        return {"loss": (values * counted).sum() / counted.sum()}

    values = jnp.array([[1.0], [2], [3], [5]])
    counted = jnp.array([[1.0], [0], [1], [1]])
    losses = [
        tiny.detector(loss_group=n)._by_group(mean, values, counted)["loss"] for n in (None, 2)
    ]
    assert losses == [3.0, (1.0 + 4.0) / 2]
    with pytest.raises(UserError, match=r"loss_group=3 must divide .*: 4"):
        tiny.detector(loss_group=3)._by_group(mean, values, counted)


@pytest.mark.slow
def test_a_few_steps_lower_the_loss():
    detector, variables, scenes = tiny.detector(), tiny.variables(), tiny.scenes()
    images, sizes, objects = scenes

    @jax.jit
    def update(params, number):
        keys = image_keys(jax.random.key(7), number, jnp.arange(2))

        def loss(params):
            parts = detector.apply(
                {**variables, "params": params},
                images,
                sizes,
                objects,
                keys,
                method=detector.losses,
            )
            return sum(parts.values())

        value, gradient = jax.value_and_grad(loss)(params)
        return jax.tree.map(lambda p, g: p - 0.05 * g, params, gradient), value

    params, values = variables["params"], []
    for number in range(30):
        params, value = update(params, number)
        values.append(float(value))
    assert np.mean(values[-5:]) < 0.7 * np.mean(values[:5])


def test_faster_rcnn_has_no_masks():
    detector = tiny.detector("faster_rcnn_fpn")
    images, sizes, _ = tiny.scenes()
    (detections, masks), variables = jax.eval_shape(
        detector.init_with_output, jax.random.key(0), images, sizes
    )
    assert masks is None
    assert "mask" not in variables["params"]
    assert detections.boxes.shape == (2, 6, 4)


@pytest.mark.slow
def test_bfloat16_keeps_boxes_in_float32():
    detector = tiny.detector(dtype=jnp.bfloat16)
    images, sizes, _ = tiny.scenes()
    detections, masks = jax.eval_shape(detector.apply, tiny.variables(), images, sizes)
    assert detections.boxes.dtype == detections.scores.dtype == masks.dtype == jnp.float32
