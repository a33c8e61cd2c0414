"""Files of PyTorch weights: `.safetensors`, and `.pth` where PyTorch is installed.

A `.pth` file is a pickle, which could run code when it is read. `torch.load(weights_only=True)`
refuses files that contain more than data.
"""

import argparse
import codecs
import contextlib
import errno
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path, PurePath
from types import ModuleType
from typing import Any

import numpy as np
import safetensors.numpy

from aggnets_jax import hub, models
from aggnets_jax.convert.containers import find_weights, take_off_wrappers
from aggnets_jax.errors import UserError, import_optional, one_line
from aggnets_jax.files import (
    AnyPath,
    PathLike,
    any_path,
    check_fields,
    explained,
    local_copy,
    make_folder,
    read_json,
    whole_file,
)

_PICKLES = (".pth", ".pt", ".bin", ".tar")
_INDEX = ".index.json"
ENDINGS = (".safetensors", *_PICKLES, _INDEX)
_SHARD = re.compile(r"(.+-)(\d{5})(-of-)(\d{5})(\.[a-z]+)")
_METADATA = "aggnets_jax"
_FACTS = {"class_names": [str], "image_shape": [int], "mean": [float], "std": [float]}


def is_file_of_weights(file: PathLike) -> bool:
    """Return whether a name is of a file as for `read_state_dict`, or of a network on the Hub."""
    return hub.is_on_hub(file) or str(file).endswith(ENDINGS)


def read_state_dict(file: PathLike, entry: str | None = None) -> dict[str, np.ndarray]:
    """Read weights by their names.

    Only the weights are read from a checkpoint of a training run, which has epochs, optimiser and
    averages beside them, and the prefixes of modules that wrap a network are taken off (see
    `containers`); both are printed. The file ends in `.safetensors`, or is `.pth`, `.pt`, `.bin` or
    `.tar` written by `torch.save`, or is the `.index.json` of a file in several parts; one of the
    parts stands for all. "hf-hub:USER/NAME" is the file of a repository on the Hugging Face Hub.

    Args:
      file: file to read.
      entry: entry of a checkpoint that has several with weights, such as "state_dict_ema", or
        prefix of the names to read; default the one that is no average.

    Raises:
      UserError: if it can't be read, or it is not clear which entry has the weights.
    """
    content: Any = {}
    for path in _parts(_readable(file)):
        read = _read_safetensors if path.suffix == ".safetensors" else _read_pickle
        try:
            with local_copy(path) as local:
                with local.open("rb"):
                    pass
                part = read(local)
        except OSError as error:
            raise UserError(f"{path} can't be read: {error.strerror or one_line(error)}") from error
        content = {**content, **part} if content and isinstance(part, Mapping) else part
    weights = find_weights(str(file), content, _is_array, entry)
    if not weights:
        raise UserError(f"{file} holds no weights")
    arrays = {key: _to_numpy(str(file), key, value) for key, value in weights.items()}
    return take_off_wrappers(str(file), arrays)


def _parts(path: AnyPath) -> list[AnyPath]:
    """Return the files that hold a file's weights."""
    if path.name.endswith(_INDEX):
        names = read_json(path).get("weight_map")
        check_fields(path, names, dict, "weight_map")
        with explained(f"{path} is damaged: weight_map", ValueError, TypeError):
            files = sorted({str(path.with_name(PurePath(name).name)) for name in names.values()})
        return [_path(file, ENDINGS[:-1]) for file in files]
    if match := _SHARD.fullmatch(path.name):
        begin, _, of, count, end = match.groups()
        names = [f"{begin}{number:05}{of}{count}{end}" for number in range(1, int(count) + 1)]
        return [path.with_name(name) for name in names]
    return [path]


def read_metadata(file: PathLike) -> dict[str, Any]:
    """Return facts about the data that weights are for, from the file or its `config.json`.

    The first is as `write_state_dict` wrote it, and has precedence; the second is as on the Hugging
    Face Hub beside timm's weights. Both may lack; a `config.json` of other kinds is ignored.

    Returns:
      Some of `class_names`, `image_shape`, `mean`, `std`, and `architecture`, timm's name.

    Raises:
      UserError: for a file that can't be read, or facts of another form.
    """
    path = _readable(file)
    found: dict[str, Any] = {}
    beside = path.with_name(hub.CONFIG)
    if beside.is_file():
        found = _timm_facts(beside, read_json(beside))
    if path.suffix == ".safetensors" and path.is_file():
        found |= _own_facts(path)
    if "image_shape" in found:
        with explained(f"the image_shape of {path} is damaged", UserError):
            models.check_image_shape(found["image_shape"])
    return found


def _own_facts(path: AnyPath) -> dict[str, Any]:
    kinds = safetensors.SafetensorError, OSError
    with (
        explained(f"{path} can't be read", *kinds),
        local_copy(path) as local,
        safetensors.safe_open(local, "np") as opened,
    ):
        own = (opened.metadata() or {}).get(_METADATA)
    if not own:
        return {}
    with explained(f"the metadata of {path} are damaged", ValueError, RecursionError):
        found = json.loads(own)
    check_fields(path, found, _FACTS, "metadata")
    return {name: found[name] for name in _FACTS}


def _timm_facts(file: AnyPath, content: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(content.get("architecture"), str):
        return {}
    data = content.get("pretrained_cfg") or {}
    check_fields(file, data, {}, "pretrained_cfg")
    names = content.get("label_names")
    if isinstance(names, dict):  # by number; some may lack
        listed = [names.get(str(number)) for number in range(len(names))]
        names = None if None in listed else listed
    facts = {}
    for name, there, value in (
        ("class_names", "label_names", names),
        ("image_shape", "pretrained_cfg.input_size", data.get("input_size")),
        ("mean", "pretrained_cfg.mean", data.get("mean")),
        ("std", "pretrained_cfg.std", data.get("std")),
    ):
        if value:
            check_fields(file, value, _FACTS[name], there)
            facts[name] = value
    if size := facts.get("image_shape"):
        facts["image_shape"] = [*size[1:], size[0]]  # there, the channels are first
    return {"architecture": content["architecture"], **facts}


def write_state_dict(
    file: PathLike,
    state_dict: Mapping[str, np.ndarray],
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write weights, from `to_torch`, to a new file with an ending as for `read_state_dict`.

    A `.safetensors` file takes facts about the data, too, see `read_metadata`.

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
                facts = {_METADATA: json.dumps(metadata)} if metadata else {}
                content = safetensors.numpy.save(arrays, metadata={"format": "pt", **facts})
                partial.write_bytes(_with_sorted_header(content))
            else:
                torch = _torch(path)
                torch.save({key: torch.from_numpy(a) for key, a in arrays.items()}, partial)


def _with_sorted_header(content: bytes) -> bytes:
    """Return a `.safetensors` file whose header has its keys in order; the library has none."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def check_new_file(file: PathLike) -> AnyPath:
    """Return the path of a file that `write_state_dict` can write, or raise `UserError`."""
    path = _path(file, ENDINGS[:-1])
    with explained(f"{path} can't be written"):  # a name that is too long
        if path.exists():
            raise UserError(f"{path} exists already; give the name of a new file")
    if path.suffix in _PICKLES:
        _torch(path)
    return path


def _readable(file: PathLike) -> AnyPath:
    return hub.download_weights(file) if hub.is_on_hub(file) else _path(file, ENDINGS)


def _path(file: PathLike, endings: tuple[str, ...]) -> AnyPath:
    path = any_path(file)
    if not path.name.endswith(endings):
        raise UserError(f"{path} has no ending of a file of weights; allowed: {', '.join(endings)}")
    return path


def check_mapping(what: str, value: Any) -> None:
    """Raise `UserError` unless a value is a mapping."""
    if not isinstance(value, Mapping):
        raise UserError(f"{what} must be arrays by name, got {type(value).__name__}")


def to_array(key: str, value: Any) -> np.ndarray:
    """Return an array or a tensor as an array, or raise `UserError`."""
    # Ragged lists; sparse and quantised tensors.
    with explained(f"{key!r} is no array", ValueError, TypeError, RuntimeError):
        return np.asarray(value) if not _is_array(value) else _from_tensor(value)


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
    remedy = "pip install 'aggnets-jax[torch]', or use a .safetensors file"
    return import_optional("torch", f"{path} needs PyTorch: {remedy}")


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        if reason := _no_weights(file.read(64)):
            raise UserError(f"{path} can't be read: {reason}")
    kinds = safetensors.SafetensorError, TypeError, KeyError
    lacking = f"{path} has weights of a type that NumPy lacks; convert them to float32"
    with explained(f"{path} can't be read", *kinds), explained(lacking, AttributeError):
        return safetensors.numpy.load_file(path)


def _read_pickle(path: Path) -> Any:
    torch = _torch(path)
    # PyTorch knows this since version 2.5.
    serialization = getattr(torch, "serialization", None)
    allow = getattr(serialization, "safe_globals", contextlib.nullcontext)
    try:
        with allow(_harmless()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # UnpicklingError, and any other at a damaged file
        # A part of a file may have places before its begin, which can't be read.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        reason = _reason(path, error) or one_line(error)
        raise UserError(
            f"{path} can't be read by torch.load(weights_only=True): {reason}"
        ) from error


def _harmless() -> list[Any]:
    """Return what checkpoints often hold beside weights, and what can't run code when it is read.

    These are arguments of a training script, and numbers of NumPy such as the best accuracy.
    """
    kinds = {type(np.dtype(kind)) for kind in "?bhilqBHILQefd"}
    scalar, array = np.float64(0).__reduce__()[0], np.empty(0).__reduce__()[0]
    return [argparse.Namespace, np.dtype, np.ndarray, scalar, array, codecs.encode, *kinds]


def _reason(path: Path, error: Exception) -> str | None:
    """Return why a file can't be read as weights in PyTorch's form, if that is known.

    PyTorch's own messages are long, and advise to read the file although it may run code.
    """
    message = str(error)
    if refused := re.search(r"Unsupported (?:global|class|operand).*?([\w]+(?:\.[\w]+)+)", message):
        return (
            f"it holds {refused[1]}, which could run code; save the weights alone in PyTorch, by"
            " torch.save(model.state_dict(), FILE)"
        )
    if "TorchScript" in message:
        return "it is a program; save torch.jit.load(FILE).state_dict() in PyTorch"
    with path.open("rb") as file:
        if known := _no_weights(file.read(64)):
            return known
    damaged = isinstance(error, OSError | EOFError) or re.search("Re-running|corrupt", message)
    return "it is damaged, or not of torch.save" if damaged else None


def _no_weights(head: bytes) -> str | None:
    """Return what a file is that begins in this way, if it is no file of weights."""
    if head.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS; `git lfs pull` gets the file"
    if head.lstrip().startswith(b"<"):
        return "it is a web page"
    return None if head else "it is empty"


def _is_array(value: Any) -> bool:
    """Return whether a value is an array or, if PyTorch is imported, a tensor."""
    torch = sys.modules.get("torch")
    return isinstance(value, np.ndarray) or (torch and isinstance(value, torch.Tensor))


def _to_numpy(file: str, key: str, value: Any) -> np.ndarray:
    with explained(f"{file}: {key!r} can't be read", RuntimeError, TypeError):  # sparse, quantised
        return _from_tensor(value)


def _from_tensor(value: Any) -> np.ndarray:
    """Return an array, or a tensor as an array."""
    if isinstance(value, np.ndarray):
        return value
    tensor = value.detach()
    # NumPy has no bfloat16 of its own.
    return (tensor.float() if "bfloat16" in str(tensor.dtype) else tensor).numpy()
