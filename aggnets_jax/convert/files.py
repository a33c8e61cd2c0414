"""Files of PyTorch weights: `.safetensors`, and `.pth` where PyTorch is installed.

A `.pth` file is a pickle, which can run code when it is read; `torch.load(weights_only=True)`
refuses files that hold anything but data.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import safetensors.numpy

from aggnets_jax.errors import UserError, one_line
from aggnets_jax.files import (
    AnyPath,
    PathLike,
    any_path,
    explained,
    local_copy,
    make_folder,
    whole_file,
)

_PICKLES = (".pth", ".pt", ".bin", ".tar")
ENDINGS = (".safetensors", *_PICKLES)
_PREFIX = "module."


def read_state_dict(file: PathLike) -> dict[str, np.ndarray]:
    """Read weights by their names.

    In a checkpoint of a training run, with epochs and optimiser beside the weights, only the
    weights are read, and the prefix of `torch.nn.DataParallel` is taken off; both are printed. The
    file ends in `.safetensors`, or is `.pth`, `.pt`, `.bin` or `.tar` written by `torch.save`.

    Raises:
      UserError: if it can't be read, or it is not clear which entry has the weights.
    """
    path = _path(file)
    read = _read_safetensors if path.suffix == ".safetensors" else _read_pickle
    try:
        with local_copy(path) as local:
            with local.open("rb"):
                pass
            state_dict = read(local)
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror or one_line(error)}") from error
    if not state_dict:
        raise UserError(f"{path} holds no weights")
    prefixed = [key.startswith(_PREFIX) for key in state_dict]
    if all(prefixed):
        print(f"{path}: the names' prefix {_PREFIX!r} is taken off", flush=True)
        return {key.removeprefix(_PREFIX): value for key, value in state_dict.items()}
    return state_dict


def write_state_dict(file: PathLike, state_dict: Mapping[str, np.ndarray]) -> None:
    """Write weights, from `to_torch`, to a new file with an ending as for `read_state_dict`.

    Raises:
      UserError: if the file exists already, or can't be written.
    """
    path = check_new_file(file)
    arrays = _to_arrays(state_dict)
    # The last two mean a dtype that the format does not have.
    kinds = OSError, safetensors.SafetensorError, TypeError, KeyError
    with explained(f"{path} can't be written", *kinds):
        make_folder(path.parent)
        with whole_file(path) as partial:
            if path.suffix == ".safetensors":
                # PyTorch's readers ask for this entry.
                safetensors.numpy.save_file(arrays, partial, metadata={"format": "pt"})
            else:
                torch = _torch(path)
                torch.save({key: torch.from_numpy(a) for key, a in arrays.items()}, partial)


def check_new_file(file: PathLike) -> AnyPath:
    """Return the path of a file that `write_state_dict` can write, or raise `UserError`."""
    path = _path(file)
    with explained(f"{path} can't be written"):  # a name that is too long
        if path.exists():
            raise UserError(f"{path} exists already; give the name of a new file")
    if path.suffix in _PICKLES:
        _torch(path)
    return path


def _path(file: PathLike) -> AnyPath:
    path = any_path(file)
    if path.suffix not in ENDINGS:
        raise UserError(f"{path} has no ending of a file of weights; allowed: {', '.join(ENDINGS)}")
    return path


def check_mapping(what: str, value: Any) -> None:
    """Raise `UserError` unless a value is a mapping."""
    if not isinstance(value, Mapping):
        raise UserError(f"{what} must be arrays by name, got {type(value).__name__}")


def to_array(key: str, value: Any) -> np.ndarray:
    """Return a value as an array, or raise `UserError`."""
    # Ragged lists; tensors with gradients.
    with explained(f"{key!r} is no array", ValueError, TypeError, RuntimeError):
        return np.asarray(value)


def _to_arrays(state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Copy arrays to contiguous memory, or raise `UserError`."""
    check_mapping("state_dict", state_dict)
    arrays = {}
    for key, value in state_dict.items():
        if not isinstance(key, str):
            raise UserError(f"weights are written by names, {key!r} is a {type(key).__name__}")
        # The writers take memory as it is: a transposed view would come out wrong.
        arrays[key] = np.array(to_array(key, value), order="C")
    return arrays


def _torch(path: Path) -> ModuleType:
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise UserError(
            f"{path} needs PyTorch: pip install 'aggnets-jax[torch]', or use a .safetensors file"
        ) from error


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    kinds = safetensors.SafetensorError, TypeError, KeyError, AttributeError
    with explained(f"{path} can't be read", *kinds):
        return safetensors.numpy.load_file(path)


def _read_pickle(path: Path) -> dict[str, np.ndarray]:
    torch = _torch(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # UnpicklingError, and any other at a damaged file
        raise UserError(
            f"{path} can't be read by torch.load(weights_only=True): {one_line(error)}"
        ) from error
    weights = _weights_in(path, content, torch)
    return {key: _to_numpy(path, key, value, torch) for key, value in weights.items()}


def _weights_in(path: Path, content: Any, torch: ModuleType) -> Mapping[str, Any]:
    """Find the one mapping of names to tensors in a file's content."""

    def others(mapping: Mapping[Any, Any]) -> list[Any]:
        return [
            key
            for key, value in mapping.items()
            if not (isinstance(key, str) and isinstance(value, torch.Tensor))
        ]

    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not a state_dict")
    if not (beside := others(content)):
        return content
    inner = [k for k, v in content.items() if isinstance(v, Mapping) and v and not others(v)]
    if not inner:
        kind = type(content[beside[0]]).__name__
        raise UserError(f"{path} is no state_dict: {beside[0]!r} is a {kind}, not a tensor")
    if len(inner) > 1:
        entries = ", ".join(map(repr, inner))
        raise UserError(f"{path} has weights in more than one entry ({entries}); save one alone")
    print(f"{path}: the weights are its entry {inner[0]!r}, the others are not read", flush=True)
    return content[inner[0]]


def _to_numpy(path: Path, key: str, tensor: Any, torch: ModuleType) -> np.ndarray:
    tensor = tensor.detach()
    with explained(f"{path}: {key!r} can't be read", RuntimeError, TypeError):  # sparse, quantised
        # NumPy has no bfloat16 of its own.
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
