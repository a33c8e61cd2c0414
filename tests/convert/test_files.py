"""Files of weights: what is read, what is taken off, and what is refused."""

import json
import sys
import types

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from aggnets_jax.convert import read_state_dict, write_state_dict
from aggnets_jax.convert.files import read_metadata
from tests.patterns import one_line_error

WEIGHTS = {
    "conv.weight": np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5),
    "norm.running_var": np.array([0.5, 2], np.float64),
    "norm.num_batches_tracked": np.array(7, np.int64),
}


def assert_same(one, other):
    assert list(sorted(one)) == list(sorted(other))
    for key, value in other.items():
        np.testing.assert_array_equal(one[key], value, err_msg=key)
        assert one[key].dtype == value.dtype and one[key].shape == value.shape


class Tensor:
    """As much of a tensor as reading touches."""

    def __init__(self, value):
        self.value = value
        self.dtype = "torch.bfloat16" if value.dtype == ml_dtypes.bfloat16 else value.dtype

    def detach(self):
        return self

    def float(self):
        return Tensor(self.value.astype(np.float32))

    def numpy(self):
        if self.value.dtype == ml_dtypes.bfloat16:
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.value


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """Makes a `.pth` file of some content, for a stand-in for PyTorch that reads no other."""
    path = tmp_path / "weights.pth"

    def save(content):
        path.write_bytes(b"a pickle")

        def load(file, *, map_location, weights_only):
            assert (file, map_location, weights_only) == (path, "cpu", True)
            if isinstance(content, Exception):
                raise content
            return content

        stand_in = types.SimpleNamespace(load=load, Tensor=Tensor, bfloat16="torch.bfloat16")
        monkeypatch.setitem(sys.modules, "torch", stand_in)
        return path

    return save


def tensors(**prefixed):
    prefix = prefixed.get("prefix", "")
    return {prefix + key: Tensor(value) for key, value in WEIGHTS.items()}


def test_safetensors_come_back_as_they_were_written(tmp_path):
    file = tmp_path / "new" / "weights.safetensors"
    transposed = {**WEIGHTS, "linear.weight": np.arange(6, dtype=np.float32).reshape(2, 3).T}
    write_state_dict(file, transposed)
    assert_same(read_state_dict(file), transposed)
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_file_is_never_overwritten(tmp_path):
    file = tmp_path / "weights.safetensors"
    file.write_text("precious")
    assert "exists already" in one_line_error(write_state_dict, file, WEIGHTS)
    assert file.read_text() == "precious"


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    message = one_line_error(write_state_dict, tmp_path / "file" / "w.safetensors", WEIGHTS)
    assert "can't be written" in message


@pytest.mark.parametrize("name", ["a\0b.safetensors", "\ud800.safetensors"])
def test_a_name_that_no_file_can_have(tmp_path, name):
    file = tmp_path / name
    for message in [
        one_line_error(read_state_dict, file),
        one_line_error(write_state_dict, file, WEIGHTS),
    ]:
        assert "is no file" in message and "\0" not in message


def test_a_name_that_is_too_long(tmp_path):
    for length in (300, 253):  # the second only while it is being written
        file = tmp_path / ("w" * (length - 12) + ".safetensors")
        assert "too long" in one_line_error(write_state_dict, file, WEIGHTS)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("value", [[[1.0], [1.0, 2.0]], [None], ["0.1"]])
def test_what_is_no_array_of_numbers_is_not_written(tmp_path, value):
    message = one_line_error(write_state_dict, tmp_path / "w.safetensors", {"a": value})
    assert "'a' is no array" in message or "can't be written" in message
    assert not [*tmp_path.iterdir()]


def test_weights_without_names_are_not_written(tmp_path):
    file = tmp_path / "w.safetensors"
    assert "3 is a int" in one_line_error(write_state_dict, file, {3: np.zeros(1)})
    assert "arrays by name" in one_line_error(write_state_dict, file, None)
    assert not [*tmp_path.iterdir()]


def test_a_prefix_that_all_names_have_is_taken_off_and_told(tmp_path, capsys):
    file = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file({f"module.{k}": v for k, v in WEIGHTS.items()}, file)
    assert_same(read_state_dict(file), WEIGHTS)
    assert "'module.' is taken off" in capsys.readouterr().out


def test_a_prefix_that_some_names_have_stays(tmp_path, capsys):
    file = tmp_path / "weights.safetensors"
    mixed = {"module.a": np.zeros(1, np.float32), "b": np.zeros(1, np.float32)}
    safetensors.numpy.save_file(mixed, file)
    assert_same(read_state_dict(file), mixed)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("weights.h5", b"", "allowed: .safetensors, .pth"),
        ("weights", b"", "allowed: .safetensors, .pth"),
        ("weights.safetensors", None, "No such file"),
        ("weights.safetensors", b"", "can't be read"),
        ("weights.safetensors", b"\xff" * 64, "can't be read"),
        ("weights.safetensors", b"\x02\0\0\0\0\0\0\0{}", "holds no weights"),
    ],
)
def test_files_that_hold_no_weights(tmp_path, name, content, said):
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    message = one_line_error(read_state_dict, file)
    assert said in message and str(file) in message


def test_a_folder_is_no_file_of_weights(tmp_path):
    (tmp_path / "w.safetensors").mkdir()
    assert "can't be read" in one_line_error(read_state_dict, tmp_path / "w.safetensors")


def test_pickles_are_read_without_running_them(saved, capsys):
    assert_same(read_state_dict(saved(tensors())), WEIGHTS)
    assert capsys.readouterr().out == ""


def test_bfloat16_becomes_float32(saved):
    read = read_state_dict(saved({"a": Tensor(np.array([1.5], ml_dtypes.bfloat16))}))
    assert_same(read, {"a": np.array([1.5], np.float32)})


def test_what_surrounds_the_weights_is_taken_off_and_told(saved, capsys):
    optimizer = {"state": {0: {"momentum": Tensor(np.zeros(2))}}, "param_groups": []}
    content = {"epoch": 3, "best": Tensor(np.zeros(())), "optimizer": optimizer}
    file = saved({**content, "state_dict": tensors(prefix="module.")})
    assert_same(read_state_dict(file), WEIGHTS)
    out = capsys.readouterr().out
    assert "its entry 'state_dict'" in out and "'module.'" in out


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"net": tensors(), "old": tensors()}, "more than one entry ('net', 'old'); choose one"),
        ({**tensors(), "epoch": 3}, "'epoch' is a int, not a tensor"),
        ({"epoch": 3}, "'epoch' is a int, not a tensor"),
        ({"state_dict": {}}, "'state_dict' is a dict, not a tensor"),
        ({"state_dict": {"a": 1}}, "'state_dict' is a dict, not a tensor"),
        ({1: Tensor(np.ones(1))}, "is no state_dict: tensors have names, not 1"),
        ({"state_dict": {1: Tensor(np.ones(1))}}, "tensors have names, not 1"),
        ({}, "holds no weights"),
        ([1], "holds a list"),
        (ValueError("Unsupported\nclass"), "torch.load(weights_only=True): Unsupported class"),
    ],
)
def test_pickles_in_which_it_is_not_clear_what_the_weights_are(saved, content, said):
    file = saved(content)
    message = one_line_error(read_state_dict, file)
    assert said in message and str(file) in message


def test_without_pytorch_it_is_said_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    there, new = tmp_path / "there.pth", tmp_path / "new.pth"
    there.write_bytes(b"a pickle")
    for message in [
        one_line_error(read_state_dict, there),
        one_line_error(write_state_dict, new, WEIGHTS),
    ]:
        assert "pip install 'aggnets-jax[torch]'" in message
    assert not new.exists()


def test_with_pytorch_itself(tmp_path):
    torch = pytest.importorskip("torch")
    file = tmp_path / "weights.pth"
    write_state_dict(file, WEIGHTS)
    assert_same(read_state_dict(file), WEIGHTS)
    assert_same({k: v.numpy() for k, v in torch.load(file).items()}, WEIGHTS)

    wrapped = tmp_path / "run.pth.tar"
    parameters = {f"module.{k}": torch.as_tensor(v) for k, v in WEIGHTS.items()}
    torch.save({"epoch": 1, "state_dict": parameters}, wrapped)
    assert_same(read_state_dict(wrapped), WEIGHTS)

    half = tmp_path / "half.pt"
    torch.save({"a": torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))}, half)
    assert_same(read_state_dict(half), {"a": np.ones(2, np.float32)})

    code = tmp_path / "code.pth"
    torch.save({"a": print}, code)
    assert "weights_only=True" in one_line_error(read_state_dict, code)
    code.write_bytes(b"no pickle at all")
    assert "weights_only=True" in one_line_error(read_state_dict, code)


def test_shards_are_read_as_one_file(tmp_path):
    names = list(WEIGHTS)
    files = [tmp_path / f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    for name, file in zip(names, files, strict=True):
        safetensors.numpy.save_file({name: WEIGHTS[name]}, file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(
        json.dumps({"weight_map": dict(zip(names, [f.name for f in files], strict=True))})
    )
    assert_same(read_state_dict(index), WEIGHTS)
    assert_same(read_state_dict(files[1]), WEIGHTS)
    files[2].unlink()
    for file in (index, files[0]):
        assert "00003-of-00003.safetensors can't be read" in one_line_error(read_state_dict, file)
    index.write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    assert f"{tmp_path}/secret" in one_line_error(read_state_dict, index)
    index.write_text("{}")
    assert "weight_map must be an object" in one_line_error(read_state_dict, index)


def test_an_index_is_not_written(tmp_path):
    assert "allowed" in one_line_error(write_state_dict, tmp_path / "a.index.json", WEIGHTS)


def test_facts_about_the_data_come_back(tmp_path):
    file = tmp_path / "w.safetensors"
    facts = {"class_names": ["a", "b"], "image_shape": [8, 8, 1], "mean": [0.5], "std": [1.0]}
    write_state_dict(file, WEIGHTS, facts)
    assert read_metadata(file) == facts
    assert_same(read_state_dict(file), WEIGHTS)
    for number in range(5):  # the library writes keys in any order
        other = tmp_path / f"{number}.safetensors"
        write_state_dict(other, WEIGHTS, facts)
        assert other.read_bytes() == file.read_bytes()
    safetensors.numpy.save_file(WEIGHTS, file, {"aggnets_jax": '{"mean": "half"}'})
    assert "damaged" in one_line_error(read_metadata, file)
    for shape in ([8, 8], [8, 8, 0], [8, 8, 1, 1], []):
        other = tmp_path / f"{shape}.safetensors"
        write_state_dict(other, WEIGHTS, {**facts, "image_shape": shape})
        assert "three whole numbers from 1 to" in one_line_error(read_metadata, other)
    safetensors.numpy.save_file(WEIGHTS, file)
    assert read_metadata(file) == {}


def test_facts_beside_weights_of_timm(tmp_path):
    file, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    safetensors.numpy.save_file(WEIGHTS, file)
    data = {"input_size": [3, 240, 200], "mean": [0.5, 0.5, 0.4], "std": [1, 1, 1]}
    config.write_text(json.dumps({"architecture": "resnet50", "pretrained_cfg": data}))
    assert read_metadata(file) == {
        "architecture": "resnet50",
        "image_shape": [240, 200, 3],
        "mean": [0.5, 0.5, 0.4],
        "std": [1.0, 1.0, 1.0],
    }
    for names, read in (({"1": "b", "0": "a"}, ["a", "b"]), ({"0": "a", "7": "b"}, None)):
        config.write_text(json.dumps({"architecture": "resnet50", "label_names": names}))
        assert read_metadata(file).get("class_names") == read
    config.write_text(json.dumps({"pretrained_cfg": 3}))  # of something else
    assert read_metadata(file) == {}


def test_facts_of_the_file_come_before_those_beside_it(tmp_path):
    file, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    facts = {"class_names": ["a", "b"], "image_shape": [8, 8, 1], "mean": [0.5], "std": [1.0]}
    write_state_dict(file, WEIGHTS, {**facts, "architecture": 3})
    beside = {"architecture": "tf_efficientnet_b0", "pretrained_cfg": {"mean": [0.1]}}
    config.write_text(json.dumps(beside))
    assert read_metadata(file) == {"architecture": "tf_efficientnet_b0", **facts}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"pretrained_cfg": 3}, "pretrained_cfg must be an object"),
        ({"pretrained_cfg": {"mean": ["x"]}}, "pretrained_cfg.mean[0] must be a number"),
        ({"pretrained_cfg": {"std": 1}}, "pretrained_cfg.std must be a list"),
        ({"pretrained_cfg": {"input_size": [3, 8]}}, "three whole numbers from 1 to"),
        ({"label_names": [1]}, "label_names[0] must be a line of text"),
    ],
)
def test_damaged_facts_beside_weights_are_one_line(tmp_path, content, told):
    file = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(WEIGHTS, file)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet50", **content}))
    message = one_line_error(read_metadata, file)
    assert told in message and "damaged" in message


def test_codes_for_terminals_are_left_out_of_messages(saved):
    file = saved(ValueError("Weights only load failed, \x1b[1mdo this\x1b[0m"))
    message = one_line_error(read_state_dict, file)
    assert "load failed, do this" in message and "\x1b" not in message
