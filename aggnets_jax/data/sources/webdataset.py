"""Shards of WebDataset: tar files whose members KEY.jpg and KEY.cls are an example.

    DIR/train-000000.tar  DIR/train-000001.tar  DIR/val-000000.tar      or DIR/train/000000.tar
    DIR/classes.txt       a name in each line, if there is one

A label is the number in KEY.cls. A shard's headers are read once, when it is opened, and then every
example in any order. WebDataset's own library reads shards from beginning to end, and starts them
again when a run resumes.
"""

import itertools
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from aggnets_jax.data.examples import Examples
from aggnets_jax.data.folders import files_below, is_visible
from aggnets_jax.data.image_folder import ENDINGS, report_left_out
from aggnets_jax.data.sources.opened import Opened, numbered_classes
from aggnets_jax.errors import UserError
from aggnets_jax.files import explained, read_text

CLASSES = "classes.txt"
_NUMBER = re.compile(r"[-_.]?\d+(-of-\d+)?$")  # of a shard


class _Member(NamedTuple):
    """An image in a shard: its key, place and label."""

    key: str
    shard: Path
    start: int
    size: int
    label: int


class Shards(Examples):
    """Examples in tar files."""

    def __init__(self, members: Sequence[_Member]) -> None:
        self._members = members
        self.labels = np.array([member.label for member in members], np.int64)

    def __len__(self) -> int:
        return len(self._members)

    def read(self, index: int) -> tuple[bytes, int]:
        """Read the image from its place in the shard."""
        member = self._members[index]
        with member.shard.open("rb") as file:
            file.seek(member.start)
            return file.read(member.size), member.label

    def place(self, index: int) -> str:
        """Return key and shard."""
        member = self._members[index]
        return f"{member.key} in {member.shard}"


def open_folder(path: Path) -> Opened:
    """Open a folder of shards.

    Raises:
      UserError: if there are none, one is damaged, an image has no label, or `classes.txt` can't be
        read or has too few names.
    """
    if not path.is_dir():
        raise UserError(f"data_dir {path} is no folder with shards such as train-000000.tar")
    shards: dict[str, list[Path]] = {}
    for file in sorted(map(Path, files_below(str(path)))):
        if file.suffix == ".tar":
            shards.setdefault(_split(path, file), []).append(file)
    if not shards:
        raise UserError(f"{path} holds no shards such as train-000000.tar")
    splits = {}
    for split, files in shards.items():
        left_out: list[str] = []
        splits[split] = Shards([each for file in files for each in _members(file, left_out)])
        place = f"shards of {split!r} in {path}, where a key ends at the first dot"
        report_left_out(place, left_out)
    if not (file := path / CLASSES).exists():
        labels = [examples.labels for examples in splits.values()]
        return Opened(splits, numbered_classes(labels, str(path)))
    names = [name for line in read_text(file).splitlines() if (name := line.strip())]
    needed = 1 + max(int(examples.labels.max(initial=-1)) for examples in splits.values())
    if len(names) < needed:
        raise UserError(f"{file} has {len(names)} names, the labels need {needed}")
    return Opened(splits, names)


def _split(folder: Path, file: Path) -> str:
    """Return the split of a shard: its folder's name, or the last word before its number."""
    if file.parent != folder:
        return file.relative_to(folder).parts[0]
    return re.split(r"[-_]", _NUMBER.sub("", file.stem))[-1] or "train"


def _members(shard: Path, left_out: list[str]) -> Iterator[_Member]:
    """Yield the examples of a shard; their visible members stand together.

    The names of members without an image of their key are added to `left_out`.
    """
    if not shard.is_file():
        raise UserError(f"{shard} is no file, or a link to none")
    with explained(f"{shard} can't be read", OSError, tarfile.TarError), shard.open("rb") as file:
        key, image, label, own = None, None, None, []
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                if not (member.isfile() and is_visible(member.name)):
                    continue
                folder, name = os.path.split(member.name)
                stem, _, ending = name.partition(".")
                found = os.path.join(folder, stem)
                if found != key:
                    if image is not None:
                        yield _whole(shard, key, image, label)
                    else:
                        left_out += own
                    key, image, label, own = found, None, None, []
                own.append(member.name)
                if f".{ending.lower()}" in ENDINGS:
                    image = member.offset_data, member.size
                elif ending.lower() == "cls":
                    label = archive.extractfile(member).read(20)
            file.seek(archive.offset)
            if not _is_end(file):  # which `tarfile` takes for the end
                raise UserError(f"{shard} is damaged from byte {archive.offset} on")
        if image is not None:
            yield _whole(shard, key, image, label)
        else:
            left_out += own


def _is_end(file: BinaryIO) -> bool:
    """Return whether the rest of a file is the end of an archive: blocks of zeros."""
    if len(block := file.read(tarfile.BLOCKSIZE)) < tarfile.BLOCKSIZE:
        return False
    pieces = itertools.chain([block], iter(lambda: file.read(1 << 20), b""))
    return all(piece.count(0) == len(piece) for piece in pieces)


def _whole(shard: Path, key: str, image: tuple[int, int], label: bytes | None) -> _Member:
    if not re.fullmatch(rb"\s*\d{1,18}\s*", label or b""):  # within int64
        raise UserError(f"{key} in {shard} has no {key}.cls with the number of its class")
    return _Member(key, shard, *image, int(label))
