"""Files of weights from elsewhere: the weights that they say, or refused in one line."""

import io
import json
import pickle
import struct
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from aggnets_jax import models
from aggnets_jax.convert import from_torch, read_state_dict, to_torch
from tests.foreign import (
    CODE,
    DEEP,
    JSON,
    RAN,
    REFUSED,
    TEXTS,
    changed,
    few_and_many,
    files_in,
    fuzz,
    nothing_ran,  # noqa: F401
    result_of,
)

NETWORK = "densenet_bc16_k4"
WEIGHTS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array([1.5], np.float64),
    "c": np.array(7, np.int64),
}
SAFETENSORS = safetensors.numpy.save(WEIGHTS)
HEADER_BYTES = struct.unpack("<Q", SAFETENSORS[:8])[0]
HEADER = json.loads(SAFETENSORS[8 : 8 + HEADER_BYTES])
BODY = SAFETENSORS[8 + HEADER_BYTES :]


def safetensors_file(header, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + BODY


@st.composite
def safetensors_headers(draw):
    header = json.loads(json.dumps(HEADER))
    entry = header[draw(st.sampled_from(list(header)))]
    sizes = st.sampled_from([0, 1, 2, 3, 6, 8, 16, 24, 32, 40, 2**40, 2**62, 2**63, 2**64, -1])
    dtypes = st.sampled_from(["F32", "F64", "I64", "I32", "U8", "BF16", "F16", "F8_E4M3", "C64"])
    changes = {
        "shape": st.lists(sizes, max_size=4),
        "data_offsets": st.lists(sizes, min_size=2, max_size=2),
        "dtype": dtypes | TEXTS,
    }
    for field in draw(st.sets(st.sampled_from(list(changes)), min_size=1)):
        entry[field] = draw(changes[field])
    if draw(st.booleans()):
        header[draw(TEXTS | st.just("__metadata__"))] = draw(st.just(entry) | JSON)
    return safetensors_file(header)


LENGTHS = st.sampled_from([0, 1, HEADER_BYTES - 1, HEADER_BYTES + 1, 2**31, 2**63, 2**64 - 1])
TRUNCATED = st.integers(0, len(SAFETENSORS)).map(lambda length: SAFETENSORS[:length])
DAMAGED_SAFETENSORS = (
    st.binary(max_size=40)
    | TRUNCATED
    | LENGTHS.map(lambda length: safetensors_file(HEADER, length))
    | changed(HEADER).map(safetensors_file)
    | safetensors_headers()
    | DEEP.map(lambda text: safetensors_file(text.encode()))
)


@few_and_many(150, 5000)
def test_safetensors_are_what_the_file_says_or_refused(examples, tmp_path, capsys):
    file = tmp_path / "weights.safetensors"
    twice = json.dumps(HEADER).encode().replace(b'"b"', b'"a"')

    @fuzz(examples, DAMAGED_SAFETENSORS, also=[SAFETENSORS, safetensors_file(twice)])
    def _(content):
        file.write_bytes(content)
        read = result_of(read_state_dict, file)
        assert files_in(tmp_path) == {file: content}
        if read is REFUSED:
            assert content != SAFETENSORS
            return
        length = struct.unpack("<Q", content[:8])[0]
        header, body = json.loads(content[8 : 8 + length]), content[8 + length :]
        for name, array in read.items():
            start, end = header[name]["data_offsets"]
            assert array.tobytes() == body[start:end]
            assert list(array.shape) == header[name]["shape"]


class Evil:
    """An object that runs code when it is unpickled."""

    def __reduce__(self):
        return eval, (CODE,)


def zipped(**entries):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, value in entries.items():
            archive.writestr(name, value)
    return content.getvalue()


def torch_archive(pickled, **more):
    return zipped(**{"w/data.pkl": pickled, "w/version": b"3\n", "w/byteorder": b"little", **more})


EMPTY = pickle.dumps({}, protocol=2)
PICKLES = {
    "a call": pickle.dumps(Evil(), protocol=2),
    "a call inside": pickle.dumps({"a": Evil()}, protocol=2),
    "protocol 0": pickle.dumps(Evil(), protocol=0),
    "protocol 4": pickle.dumps(Evil(), protocol=4),
    "a call in an archive": torch_archive(pickle.dumps({"a": Evil()}, protocol=2)),
    "a name that leads out": torch_archive(EMPTY, **{"../../evil": b"x", "/tmp/evil": b"x"}),
    "a script in an archive": torch_archive(EMPTY, **{"w/code/__torch__.py": CODE.encode()}),
    "half an archive": torch_archive(EMPTY)[:-30],
    "an archive of nothing": zipped(),
    "no pickle": b"no pickle at all",
    "deeply nested": b"\x80\x02" + b"(" * 50_000 + b".",
}


@pytest.mark.parametrize("ending", [".pth", ".pt", ".bin", ".tar", ".safetensors"])
@pytest.mark.parametrize("what", PICKLES)
def test_pickles_do_not_run_and_archives_are_not_unpacked(what, ending, tmp_path):
    file = tmp_path / "deep" / "deeper" / f"weights{ending}"
    file.parent.mkdir(parents=True)
    file.write_bytes(PICKLES[what])
    assert result_of(read_state_dict, file) is REFUSED
    assert files_in(tmp_path) == {file: PICKLES[what]}


def test_that_the_pickles_would_run():
    pickle.loads(PICKLES["a call"])
    assert RAN.exists()
    RAN.unlink()


@few_and_many(40, 2000)
def test_damaged_files_of_pytorch_are_read_right_or_refused(examples, tmp_path):
    torch = pytest.importorskip("torch")
    file = tmp_path / "weights.pth"
    weights = {name: torch.as_tensor(value) for name, value in WEIGHTS.items()}
    contents = []
    for zip_format in (True, False):
        torch.save(weights, file, _use_new_zipfile_serialization=zip_format)
        contents.append(file.read_bytes())

    @fuzz(examples, st.sampled_from(contents), st.data())
    def _(content, data):
        damaged = bytearray(content)
        for place in data.draw(st.sets(st.integers(0, len(content) - 1), min_size=1, max_size=3)):
            damaged[place] = data.draw(st.integers(0, 255))
        file.write_bytes(damaged[: data.draw(st.none() | st.integers(0, len(content)))])
        read = result_of(read_state_dict, file)
        assert list(tmp_path.iterdir()) == [file]
        if read is not REFUSED:
            assert all(isinstance(value, np.ndarray) for value in read.values())


@few_and_many(10, 300)
def test_weights_of_any_names_shapes_and_kinds_fit_or_are_refused(examples):
    network = {"num_classes": 2, "input_shape": (8, 8, 1)}
    images = jax.ShapeDtypeStruct((1, *network["input_shape"]), jnp.float32)
    model = models.create_model(NETWORK, network["num_classes"])
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(model.init, jax.random.key(0), images))
    is_shape = lambda node: isinstance(node, tuple)  # noqa: E731
    weights = to_torch(NETWORK, jax.tree.map(np.zeros, shapes, is_leaf=is_shape), **network)
    kinds = st.sampled_from([np.float32, np.float16, np.float64, np.int8, np.bool_, np.complex64])
    values = arrays(kinds, array_shapes(min_dims=0, max_side=3)) | JSON | st.just(np.array(["x"]))

    found = []

    @fuzz(examples, st.sampled_from(list(weights)), st.data())
    def _(name, data):
        given = dict(weights)
        shape = given[name].shape
        fitting = st.just(np.ones(shape, np.float16)) | arrays(kinds, shape)
        given[data.draw(st.just(name) | TEXTS)] = data.draw(fitting | values)
        converted = result_of(lambda: from_torch(NETWORK, given, **network))
        found.append(converted is not REFUSED)
        if converted is not REFUSED:
            assert jax.tree.map(np.shape, converted) == shapes
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(converted))
            assert set(given) == set(weights)

    assert any(found) and not all(found)
