"""Files of weights as training scripts, downloads and other dtypes leave them."""

import argparse

import numpy as np
import pytest

from aggnets_jax.convert.files import read_state_dict, to_array
from aggnets_jax.errors import UserError

WEIGHTS = {"conv.weight": np.arange(6, dtype=np.float32).reshape(2, 3)}


def test_arguments_and_numbers_of_a_script_are_beside_the_weights(tmp_path):
    """As in checkpoints of timm, DeiT and mmdetection; reading them runs no code."""
    torch = pytest.importorskip("torch", minversion="2.5")
    content = {
        "model": {k: torch.from_numpy(x) for k, x in WEIGHTS.items()},
        "args": argparse.Namespace(lr=0.1),
        "best": np.float64(0.75),
        "counts": np.arange(3),
    }
    torch.save(content, tmp_path / "w.pth")
    read = read_state_dict(tmp_path / "w.pth")
    assert np.array_equal(read["conv.weight"], WEIGHTS["conv.weight"])


def test_code_in_a_file_is_named_and_not_run(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "w.pth")
    with pytest.raises(UserError) as error:
        read_state_dict(tmp_path / "w.pth")
    assert str(error.value) == (
        f"{tmp_path}/w.pth can't be read by torch.load(weights_only=True): it holds"
        " torch.nn.modules.linear.Linear, which could run code; save the weights alone in PyTorch,"
        " by torch.save(model.state_dict(), FILE)"
    )


NO_WEIGHTS = [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n", "pointer of Git LFS"),
    (b"\n<!doctype html><html>404</html>", "it is a web page"),
    (b"", "it is empty"),
]


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize(("content", "message"), NO_WEIGHTS)
def test_failed_downloads_are_told_as_what_they_are(tmp_path, name, content, message):
    if name == "w.pth":
        pytest.importorskip("torch")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name} can't be read.*: .*{message}"):
        read_state_dict(tmp_path / name)


def test_pytorchs_advice_to_run_code_is_left_out(tmp_path):
    pytest.importorskip("torch")
    (tmp_path / "w.tar").write_bytes(b"\x1f\x8b\x08 compressed")
    with pytest.raises(UserError, match=r"it is damaged, or not of torch.save") as error:
        read_state_dict(tmp_path / "w.tar")
    assert "weights_only` argument" not in str(error.value)


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize("part", [0.001, 0.05, 0.5, 0.999])
def test_the_begin_of_a_file_is_told_to_be_damaged(tmp_path, archive, part):
    torch = pytest.importorskip("torch")
    file = tmp_path / "w.pth"
    weights = {"conv.weight": torch.ones(300, 300)}
    torch.save(weights, file, _use_new_zipfile_serialization=archive)
    file.write_bytes(file.read_bytes()[: int(part * file.stat().st_size)])
    with pytest.raises(UserError, match=r"w\.pth can't be read .*: it is damaged, or not of torch"):
        read_state_dict(file)


def test_tensors_with_gradients_and_of_bfloat16_are_arrays():
    torch = pytest.importorskip("torch")
    for tensor in (torch.ones(2, requires_grad=True), torch.ones(2, dtype=torch.bfloat16)):
        array = to_array("w", tensor)
        assert array.dtype == np.float32
        assert np.array_equal(array, [1, 1])
