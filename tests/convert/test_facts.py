"""Facts about the data of published weights, without data."""

import json

import numpy as np
import pytest
from PIL import Image

from aggnets_jax import config as config_lib
from aggnets_jax import create_model
from aggnets_jax.convert import to_torch, write_state_dict
from aggnets_jax.convert.facts import describe_weights, imagenet_classes, read_class_names
from aggnets_jax.main import main
from tests.models.variables import shapes_of
from tests.patterns import one_line_error

# A DenseNet as for ImageNet, of the least size.
ARGS = {"stage_depths": (1, 1, 1, 1), "growth_rate": 4, "stem_features": 8}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def weights_of(name, num_classes, shape, **arguments):
    model = create_model(name, num_classes, **arguments)
    random, shapes = np.random.default_rng(0), shapes_of(model, shape[0], shape[-1])
    variables = {collection: _drawn(random, tree) for collection, tree in shapes.items()}
    return to_torch(name, variables, num_classes=num_classes, input_shape=shape, **arguments)


def _drawn(random, tree):
    if isinstance(tree, dict):
        return {key: _drawn(random, value) for key, value in tree.items()}
    return random.uniform(0.1, 1, tree.shape).astype(np.float32)


@pytest.fixture(scope="module")
def photographs():
    return {n: weights_of("densenet_imagenet", n, (64, 64, 3), **ARGS) for n in (3, 1000)}


def described(state_dict, metadata=None, class_names=None, **changes):
    model = {"name": "densenet_imagenet", "args": ARGS}
    config = config_lib.resolve({"model": model, **changes})
    info = describe_weights(config, state_dict, metadata or {}, class_names)
    return config, info


def test_imagenet_is_known(photographs):
    config, info = described(photographs[1000])
    assert info.class_names == imagenet_classes()
    assert (info.class_names[0], info.class_names[-1]) == ("n01440764", "n15075141")
    assert len(info.class_names) == info.num_classes == 1000
    assert (info.image_shape, info.mean, info.std) == ((224, 224, 3), MEAN, STD)
    assert info.resized and info.num_train == 1_281_167
    assert config.data.name == "imagenet2012" and config.data.image_size == 224


def test_others_have_numbers_and_the_means_of_photographs(photographs):
    config, info = described(photographs[3])
    assert info.class_names == ("class 0", "class 1", "class 2")
    assert (info.image_shape, info.mean, info.std) == ((224, 224, 3), MEAN, STD)
    assert (config.data.name, config.data.image_size) == ("image_folder", 224)


def test_flags_and_metadata_come_before_what_is_known(photographs, tmp_path):
    metadata = {"class_names": ["x", "y", "z"], "image_shape": [96, 96, 3], "mean": [0.1] * 3}
    config, info = described(photographs[3], metadata)
    assert info.class_names == ("x", "y", "z")
    assert (info.image_shape, info.mean, info.std) == ((96, 96, 3), (0.1,) * 3, STD)
    assert (config.data.image_size, config.data.mean) == (96, (0.1,) * 3)
    (tmp_path / "names.txt").write_text("rose\ntulip\n\nlily\n")
    given = {"image_size": 64, "mean": (0.2,) * 3, "std": (0.3,)}
    _, info = described(photographs[3], metadata, tmp_path / "names.txt", data=given)
    assert info.class_names == ("rose", "tulip", "lily")
    assert (info.image_shape, info.mean, info.std) == ((64, 64, 3), (0.2,) * 3, (0.3,) * 3)
    message = one_line_error(described, photographs[1000], None, tmp_path / "names.txt")
    assert message.endswith("has 3 names, the weights have 1000 classes")


def test_names_in_metadata_are_checked_as_those_of_a_file(photographs, tmp_path):
    for names, told in (
        (["a", "b", "a"], "(--class_names gives another) has the name 'a' twice"),
        (["a", "", "b"], "(--class_names gives another) holds no names of classes: ['a']"),
    ):
        assert told in one_line_error(described, photographs[3], {"class_names": names})
    (tmp_path / "names.txt").write_text("rose\ntulip\nlily\n")
    _, info = described(photographs[3], {"class_names": ["a"] * 3}, tmp_path / "names.txt")
    assert info.class_names == ("rose", "tulip", "lily")


def test_color_weights_may_be_for_grey_images(photographs):
    _, info = described(photographs[3], data={"mean": (0.4,)})
    assert (info.image_shape, info.mean) == ((224, 224, 1), (0.4,))
    assert info.std == pytest.approx((sum(STD) / 3,), abs=1e-6)


def test_digits_are_known():
    weights = weights_of("densenet7_k4", 10, (8, 8, 1))
    given = {"model": {"name": "densenet7_k4"}, "data": {"name": "aggnets_digits"}}
    config = config_lib.resolve(given)
    info = describe_weights(config, weights, {})
    assert (info.image_shape, info.num_train, info.resized) == ((8, 8, 1), 1437, False)
    # The config stays, so that a training with it can go on.
    assert config.to_dict() == config_lib.resolve(given).to_dict()


def test_a_network_of_other_images_is_not_of_the_default_data():
    weights = weights_of("densenet7_k4", 10, (8, 8, 1))
    config = config_lib.resolve({"model": {"name": "densenet7_k4"}})
    info = describe_weights(config, weights, {"image_shape": [8, 8, 1]})
    assert (info.image_shape, info.num_train, config.data.name) == ((8, 8, 1), 0, "image_folder")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.txt", "rose\n tulip \n", ("rose", "tulip")),
        ("a.json", json.dumps(["rose", "tulip"]), ("rose", "tulip")),
        ("a.txt", "\ufeffrose\ntulip\n", ("rose", "tulip")),  # Windows' mark of UTF-8
        ("a.json", '\ufeff["rose", "tulip"]', ("rose", "tulip")),
        ("a.json", json.dumps({"1": "tulip", "0": "rose"}), ("rose", "tulip")),
        ("a.json", json.dumps({"0": ["n01", "rose"], "1": ["n02", "tulip"]}), ("n01", "n02")),
        ("a.txt", "rose\nrose\n", "has the name 'rose' twice"),
        ("a.txt", "\n", "holds no names"),
        ("a.json", "[1, 2]", "holds no names"),
        ("a.json", "{", "is no JSON file"),
        ("a.json", json.dumps({"0": "rose", "2": "tulip"}), "by the numbers 0, 1"),
        ("a.json", "3", "holds no names"),
        ("a.txt", None, "can't be read"),
    ],
)
def test_files_of_class_names(name, text, expected, tmp_path):
    if text is not None:
        (tmp_path / name).write_text(text)
    if isinstance(expected, tuple):
        assert read_class_names(tmp_path / name) == expected
    else:
        assert expected in one_line_error(read_class_names, tmp_path / name)


@pytest.mark.slow
def test_weights_become_a_workdir_without_data(photographs, tmp_path, capsys):
    """It predicts, and is evaluated on images in folders without a training split."""
    file, workdir, images = tmp_path / "w.safetensors", tmp_path / "run", tmp_path / "images"
    write_state_dict(file, photographs[3])
    arguments = [f"--config.model.args.{name}={value}" for name, value in ARGS.items()]
    network = ["--config.model.name=densenet_imagenet", *arguments, "--config.data.image_size=64"]
    assert main(["convert", f"--from_torch={file}", f"--workdir={workdir}", *network]) == 0
    for number, name in enumerate(("lily", "rose", "tulip")):
        (images / "val" / name).mkdir(parents=True)
        picture = np.random.default_rng(number).integers(0, 255, (70, 80, 3), np.uint8)
        Image.fromarray(picture).save(images / "val" / name / "0.png")
    capsys.readouterr()
    assert main(["predict", f"--workdir={workdir}", f"--images={images}", "--format=json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {p["class"] for p in found[0]["predictions"]} == {"class 0", "class 1", "class 2"}
    data = ["--data=image_folder", f"--data_dir={images}"]
    assert main(["eval", f"--workdir={workdir}", *data]) == 0
    assert "the first is 'lily'" in capsys.readouterr().out
    assert main(["eval", f"--workdir={workdir}", f"--data_dir={images}"]) == 0
    back = tmp_path / "back.safetensors"
    assert main(["convert", f"--workdir={workdir}", f"--to_torch={back}"]) == 0
    arguments = [
        "convert",
        f"--from_torch={back}",
        f"--workdir={tmp_path / 'again'}",
        *network[:-1],
    ]
    assert main(arguments) == 0
    assert "images of 64x64x3" in capsys.readouterr().out
