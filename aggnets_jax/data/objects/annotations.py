"""Annotations of a split in COCO's format, read and checked.

    DIR/annotations/instances_SPLIT.json
    DIR/SPLIT/*.jpg, or DIR/images/SPLIT/*.jpg, or DIR/images/*.jpg

Lin et al., "Microsoft COCO", arXiv 1405.0312; https://cocodataset.org/#format-data. A wrong object
or image is an error that names it, or is left out if the config says "skip".
"""

import functools
import hashlib
import json
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from aggnets_jax.data.objects.segmentations import is_finite, mask_problem
from aggnets_jax.errors import UserError, one_line, unknown
from aggnets_jax.files import is_line

# Messages about what is left out are printed up to this number.
_PRINTED = 10
_WHOLE_NUMBERS = {"category_id", "height", "id", "image_id", "iscrowd", "width"}
_OFTEN_LACKING = ("area", "iscrowd")


class Annotated(NamedTuple):
    """The images of a split with their objects.

    Attributes:
      file: the annotation file.
      folder: folder of the images.
      images: "id", "file_name", "height" and "width" of each, in the order of the file.
      objects: annotations of each image, as in the file, also crowds.
      categories: name of each category by its id, in the order of the ids.
      left_out: number of images and annotations that were skipped.
    """

    file: epath.Path
    folder: epath.Path
    images: tuple[Mapping[str, Any], ...]
    objects: tuple[tuple[Mapping[str, Any], ...], ...]
    categories: Mapping[int, str]
    left_out: int

    def path(self, index: int) -> epath.Path:
        """Return the file of an image by its place."""
        return self.folder / self.images[index]["file_name"]

    def trained(self, index: int) -> list[Mapping[str, Any]]:
        """Return the objects of an image that are trained: with a pixel or more in the image.

        Crowds are not, and neither are VOC's objects that are hard to recognise.
        """
        image = self.images[index]
        return [
            each
            for each in self.objects[index]
            if not (each["iscrowd"] or each.get("difficult"))
            and min(_sides_inside(each["bbox"], image["height"], image["width"])) >= 1
        ]

    def ground_truth(self) -> dict[str, Any]:
        """Return the content of an annotation file of the images and objects that are here."""
        return {
            "images": list(self.images),
            "annotations": [each for objects in self.objects for each in objects],
            "categories": [{"id": i, "name": name} for i, name in self.categories.items()],
        }


def annotation_file(data_dir: str, split: str) -> epath.Path:
    """Return the annotation file of a split; raise `UserError` if there is none."""
    folder = epath.Path(data_dir).expanduser() / "annotations"
    file = folder / f"instances_{split}.json"
    if not file.exists():
        raise unknown(f"split of {data_dir}", split, splits(data_dir))
    return file


def splits(data_dir: str) -> list[str]:
    """Return the names of the splits that a folder has annotations of."""
    folder = epath.Path(data_dir).expanduser() / "annotations"
    if not folder.is_dir():
        raise UserError(f"{folder} is not there: it needs the files instances_SPLIT.json")
    names = (file.name for file in folder.iterdir())
    return sorted(
        name.removeprefix("instances_").removesuffix(".json")
        for name in names
        if name.startswith("instances_") and name.endswith(".json")
    )


def read_annotations(data_dir: str, split: str, *, masks: bool, skip: bool) -> Annotated:
    """Read the annotations of a split.

    Args:
      data_dir: folder, local or in a bucket.
      split: name of the split.
      masks: whether objects need masks.
      skip: whether to leave out images and objects that are wrong, with a line on stderr, rather
        than to raise an error.

    Raises:
      UserError: for a file that is missing, or not in COCO's format, and for wrong images and
        objects unless they are skipped.
    """
    file = annotation_file(data_dir, split)
    try:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{file} can't be read: {one_line(error)}") from error
    return _read(str(file), data_dir, split, masks, skip, digest)


@functools.lru_cache(maxsize=4)
def _read(path: str, data_dir: str, split: str, masks: bool, skip: bool, digest: str) -> Annotated:
    del digest  # of the content, so that a file that has changed is read anew
    file = epath.Path(path)
    content = _content(file)
    categories = _categories(file, content["categories"])
    root = epath.Path(data_dir).expanduser()
    folder = _image_folder(root, split, content["images"])
    problems: list[str] = []
    images = list(_good_images(folder, content["images"], problems))
    places = {image["id"]: place for place, image in enumerate(images)}
    objects: list[list[Mapping[str, Any]]] = [[] for _ in images]
    gone = {image["id"] for image in content["images"] if _is_id(image, "id")} - {*places}
    seen: set[int] = set()
    for place, annotation in enumerate(content["annotations"]):
        name, problem = _problem(annotation, place, images, places, categories, masks, seen)
        if problem is None:
            objects[places[annotation["image_id"]]].append(_completed(annotation))
        elif not (_is_id(annotation, "image_id") and annotation["image_id"] in gone):
            problems.append(f"{name} {problem}")  # else its image is named
    _report(file, problems, skip)
    if not images:
        raise UserError(f"{file} has no images that can be used")
    return Annotated(
        file, folder, tuple(images), tuple(map(tuple, objects)), categories, len(problems)
    )


def _content(file: epath.Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())  # which may begin with Windows' mark of UTF-8
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} can't be read: {one_line(error)}") from error
    for name in ("images", "annotations", "categories"):
        value = content.get(name) if isinstance(content, dict) else None
        if not isinstance(value, list):
            raise UserError(f"{file} is not in COCO's format: it needs the list {name!r}")
        for entry in value:
            _tidy(entry)
    return content


def _tidy(entry: Any) -> None:
    """Make whole numbers of floats such as 3.0, which pandas writes, and drop empty fields."""
    if isinstance(entry, dict):
        for name in _WHOLE_NUMBERS & entry.keys():
            if type(value := entry[name]) is float and value.is_integer():
                entry[name] = int(value)
        for name in _OFTEN_LACKING:
            if entry.get(name, name) is None:
                del entry[name]


def _categories(file: epath.Path, given: list[Any]) -> dict[int, str]:
    """Return the names of the categories by their ids, which must differ."""
    found: dict[int, str] = {}
    for category in given:
        name = category.get("name") if isinstance(category, dict) else None
        if not (_is_id(category, "id") and isinstance(name, str) and is_line(name)):
            raise UserError(
                f"{file}: each category needs an 'id' and a 'name', not {one_line(category)}"
            )
        if category["id"] in found or name in found.values():
            raise UserError(f"{file} has the category {category['id']} {name!r} twice")
        found[category["id"]] = name
    if not found:
        raise UserError(f"{file} has no categories")
    return dict(sorted(found.items()))


def _image_folder(root: epath.Path, split: str, images: list[Any]) -> epath.Path:
    """Return the folder with the images: the first that has one of the first images."""
    folders = [root / split, root / "images" / split, root / "images", root]
    names = [name for image in images[:10] if (name := _file_name(image)) is not None]
    for folder in folders:
        if any((folder / form).exists() for name in names for form in _forms(name)):
            return folder
    return folders[0]


def _file_name(image: Any) -> str | None:
    """Return the name of an image's file within its folder, or None if it has none."""
    name = image.get("file_name") if isinstance(image, dict) else None
    if not isinstance(name, str) or not is_line(name) or not name:
        return None
    return None if name.startswith("/") or ".." in name.split("/") else name


def _good_images(
    folder: epath.Path, images: list[Any], problems: list[str]
) -> Iterator[Mapping[str, Any]]:
    """Yield the images that are as they should be; add a message about each other."""
    names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    there = {**{_composed(name): name for name in names}, **dict(zip(names, names, strict=True))}
    seen: set[int] = set()
    for place, image in enumerate(images):
        if not _is_id(image, "id"):
            problems.append(f"image {place} of the list has no whole number as 'id'")
            continue
        name, sides = _file_name(image), [image.get(side) for side in ("height", "width")]
        if image["id"] in seen:
            problem = "comes twice"
        elif name is None:
            problem = f"has the file name {image.get('file_name')!r}"
        elif not all(type(side) is int and 0 < side < 1 << 16 for side in sides):
            given = f"the height {sides[0]!r} and the width {sides[1]!r}"
            problem = f"has {given}, which must be whole numbers from 1 to 65535"
        elif (stored := _stored_name(folder, name, there)) is None:
            problem = f"is missing: {folder / name}"
        else:
            seen.add(image["id"])
            yield image if stored == name else {**image, "file_name": stored}
            continue
        problems.append(f"image {image['id']} {problem}")


def _stored_name(folder: epath.Path, name: str, there: Mapping[str, str]) -> str | None:
    """Return the name that an image's file has in a folder, or None if it is missing.

    It may differ in its form: Windows has backslashes, and macOS accents as letters of their own.
    """
    for form in _forms(name):
        if form in there:
            return there[form]
        inside = not form.startswith("/") and ".." not in form.split("/")
        if "/" in form and inside and (folder / form).exists():
            return form
    return None


def _forms(name: str) -> tuple[str, ...]:
    return name, _composed(name), name.replace("\\", "/")


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _problem(
    annotation: Any,
    place: int,
    images: list[Mapping[str, Any]],
    places: Mapping[int, int],
    categories: Mapping[int, str],
    masks: bool,
    seen: set[int],
) -> tuple[str, str | None]:
    """Return the name of an annotation, and the mistake in it or None."""
    if not _is_id(annotation, "id"):
        return f"annotation {place} of the list", "has no whole number as 'id'"
    name, image = f"annotation {annotation['id']}", annotation.get("image_id")
    if annotation["id"] in seen:
        return name, "comes twice"
    seen.add(annotation["id"])
    if not _is_id(annotation, "image_id") or image not in places:
        return name, f"is of the image {image!r}, which is not there"
    category = annotation.get("category_id")
    if not _is_id(annotation, "category_id") or category not in categories:
        return name, f"has the category {category!r}, which is not there"
    if annotation.get("iscrowd", 0) not in (0, 1):
        return name, f"has {annotation['iscrowd']!r} as 'iscrowd', which must be 0 or 1"
    box, size = annotation.get("bbox"), (images[places[image]][s] for s in ("height", "width"))
    height, width = size
    if not (isinstance(box, list) and len(box) == 4 and all(map(is_finite, box))):
        return name, f"has the box {box!r}, which must be four numbers"
    x, y, w, h = box
    if w <= 0 or h <= 0:
        return name, f"has the box {box} without an area"
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        return name, f"has the box {box} outside its image of {width}x{height}"
    area = annotation.get("area", 1)
    if not is_finite(area) or area <= 0:
        return name, f"has the area {area!r}"
    return name, mask_problem(annotation.get("segmentation"), height, width) if masks else None


def _sides_inside(box: Sequence[float], height: int, width: int) -> tuple[float, float]:
    """Return the sides of the part of a box that is in its image."""
    x, y, w, h = box
    return min(x + w, width) - max(x, 0), min(y + h, height) - max(y, 0)


def _completed(annotation: Mapping[str, Any]) -> dict[str, Any]:
    """Return an annotation with the fields that own files often lack."""
    found = {"iscrowd": 0, **annotation}
    if "area" not in found:
        found["area"] = float(found["bbox"][2] * found["bbox"][3])
    return found


def _report(file: epath.Path, problems: list[str], skip: bool) -> None:
    """Raise `UserError` for the first problem, or print the first few."""
    if problems and not skip:
        more = f", and {len(problems) - 1} more are wrong" if len(problems) > 1 else ""
        raise UserError(f"{file}: {problems[0]}{more}; config.data.damaged='skip' leaves them out")
    for problem in problems[:_PRINTED]:
        print(f"skipped: {file}: {problem}", file=sys.stderr, flush=True)
    if len(problems) > _PRINTED:
        more = f"{len(problems) - _PRINTED} more images and annotations"
        print(f"skipped: {file}: {more}", file=sys.stderr, flush=True)


def _is_id(value: Any, name: str) -> bool:
    return isinstance(value, dict) and type(value.get(name)) is int
