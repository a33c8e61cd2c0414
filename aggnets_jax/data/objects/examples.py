"""From an image file and its annotations to arrays of one of a few sizes, on the host."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aggnets_jax.buckets import storage
from aggnets_jax.data.image_files import read_picture
from aggnets_jax.data.objects.annotations import Annotated
from aggnets_jax.data.objects.segmentations import decode_mask
from aggnets_jax.detection.conventions import Conventions
from aggnets_jax.detection.images import padded, resize, resized
from aggnets_jax.errors import UserError, one_line

Example = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Form:
    """The form in which images and objects reach the network.

    Attributes:
      conventions: choices of an implementation, see `Conventions`.
      long: most pixels of an image's longer side.
      short: most pixels of its shorter side; images are as large as both allow.
      divisor: padded sides are multiples of it.
      buckets: padded sizes (height, width) of training; None: the two of the largest images, lying
        and standing.
      masks: whether objects have masks.
      mask_side: side of a mask that is cropped to its object's box; None: masks have the size of
        the padded image.
    """

    conventions: Conventions
    long: int
    short: int
    divisor: int
    buckets: tuple[tuple[int, int], ...] | None
    masks: bool
    mask_side: int | None

    def resized(self, image: Mapping[str, Any]) -> tuple[int, int]:
        """Return the (height, width) of an image without padding."""
        return self._resized(image)[0]

    def factors(self, image: Mapping[str, Any]) -> np.ndarray:
        """Return the scale factors of x and y of an image, float64 [2]."""
        (height, width), factor = self._resized(image)
        if self.conventions.extent:  # mmdetection 1.x has one factor for both
            return np.array([factor, factor])
        return np.array([width / image["width"], height / image["height"]])

    def _resized(self, image: Mapping[str, Any]) -> tuple[tuple[int, int], float]:
        size = image["height"], image["width"]
        found, factor = resized(size, self.conventions, long=self.long, short=self.short)
        return (max(found[0], 1), max(found[1], 1)), factor

    def padded(self, image: Mapping[str, Any]) -> tuple[int, int]:
        """Return the (height, width) of an image, padded as little as possible."""
        return padded(self.resized(image), self.divisor)

    def mask_shape(self, size: Sequence[int]) -> tuple[int, int]:
        """Return the shape of a mask in images of a padded size."""
        height, width = size if self.mask_side is None else (self.mask_side, self.mask_side)
        return height, width

    @property
    def training_sizes(self) -> tuple[tuple[int, int], ...]:
        """The padded sizes of training."""
        if self.buckets is not None:
            return self.buckets
        lying = padded((self.short, self.long), self.divisor)
        return tuple(dict.fromkeys([lying, lying[::-1]]))

    def bucket(self, image: Mapping[str, Any]) -> int:
        """Return the number of the smallest of the training sizes that an image fits into.

        Raises:
          UserError: if it fits into none.
        """
        height, width = self.resized(image)
        fitting = [
            (rows * columns, number)
            for number, (rows, columns) in enumerate(self.training_sizes)
            if height <= rows and width <= columns
        ]
        if not fitting:
            raise UserError(
                f"image {image['id']} is {height}x{width} pixels when resized, more than every"
                f" bucket: {self.training_sizes}"
            )
        return min(fitting)[1]


def load_image(data: Annotated, index: int, form: Form, size: Sequence[int]) -> Example:
    """Load an image, resized and padded with zeros.

    Returns:
      "image" uint8 [*size, 3]; "size" and "original", its (height, width) in the network's input,
      without padding, and as annotated, int32 [2]; "factors", see `Form.factors`, float32 [2].

    Raises:
      UserError: for a file that is damaged, or not of the size that the annotations state.
      OSError: if the file can't be read, or the storage does not answer.
    """
    record, path = data.images[index], data.path(index)
    wanted = record["height"], record["width"]
    with storage(path):
        content = path.read_bytes()
    try:
        image = read_picture(content, size=wanted)
    except Exception as error:  # PIL raises any at a damaged file
        raise UserError(f"{path} is damaged: {one_line(error)}") from error
    if image.shape[:2] != wanted:
        found = "x".join(map(str, image.shape[1::-1]))
        raise UserError(f"{path} has {found} pixels, and {data.file} says {wanted[1]}x{wanted[0]}")
    new = form.resized(record)
    if new != wanted:
        image = np.clip(np.round(resize(image.astype(np.float32), new)), 0, 255)
    found = np.zeros((*size, 3), np.uint8)
    found[: new[0], : new[1]] = image
    return {
        "image": found,
        "size": np.array(new, np.int32),
        "original": np.array(wanted, np.int32),
        "factors": form.factors(record).astype(np.float32),
    }


def no_image(size: Sequence[int]) -> Example:
    """Return the example in the place of an image that is skipped: its size is 0."""
    nothing = np.zeros(2, np.int32)
    return {
        "image": np.zeros((*size, 3), np.uint8),
        "size": nothing,
        "original": nothing,
        "factors": np.ones(2, np.float32),
    }


def load_objects(
    data: Annotated, index: int, form: Form, size: Sequence[int], most: int
) -> Example:
    """Load the objects of an image for training, padded to a number of objects.

    Returns:
      "boxes" float32 [most, 4] in pixels of the network's input; "label" int32 [most]; "valid" bool
      [most]; and with masks "masks" uint8 [most, side, side], or [most, *size].
    """
    objects, image = data.trained(index), data.images[index]
    new, labels = form.resized(image), {i: k for k, i in enumerate(data.categories)}
    shape, found = form.mask_shape(size), no_objects(form, size, most)
    factors = form.factors(image)
    extent = form.conventions.extent
    most_pixel = np.array([new[1], new[0]]) - extent
    for place, annotation in enumerate(objects):
        box = np.array(annotation["bbox"], np.float64)
        corner, end = box[:2] * factors, (box[:2] + box[2:] - extent) * factors
        corner, end = np.clip(corner, 0, most_pixel), np.clip(end, 0, most_pixel)
        found["boxes"][place] = *corner, *end
        found["label"][place] = labels[annotation["category_id"]]
        found["valid"][place] = True
        if form.masks:
            mask = decode_mask(annotation["segmentation"], image["height"], image["width"])
            if form.mask_side is None:
                # The nearest pixel as OpenCV and PyTorch define it.
                rows, columns = (
                    np.arange(n) * m // n for n, m in zip(new, mask.shape, strict=True)
                )
                found["masks"][place, : new[0], : new[1]] = mask[rows][:, columns]
            else:
                first, last = corner[::-1] / factors[::-1], (end + extent)[::-1] / factors[::-1]
                found["masks"][place] = _sampled(mask, first, last - first, shape)
    return found


def no_objects(form: Form, size: Sequence[int], most: int) -> Example:
    """Return the arrays of `load_objects` without an object."""
    found = {
        "boxes": np.zeros((most, 4), np.float32),
        "label": np.zeros(most, np.int32),
        "valid": np.zeros(most, bool),
    }
    if form.masks:
        found["masks"] = np.zeros((most, *form.mask_shape(size)), np.uint8)
    return found


def flipped(example: Example, form: Form) -> Example:
    """Mirror an example of training left to right; padding stays at the right."""
    height, width = example["size"]
    image = example["image"].copy()
    image[:height, :width] = image[:height, :width][:, ::-1]
    boxes, found = example["boxes"], {**example, "image": image}
    last = width - np.float32(form.conventions.flip_extent)
    mirrored = np.stack([last - boxes[:, 2], boxes[:, 1], last - boxes[:, 0], boxes[:, 3]], axis=1)
    found["boxes"] = np.where(example["valid"][:, None], mirrored, boxes)
    if form.masks:
        masks = example["masks"].copy()
        columns = masks.shape[2] if form.mask_side is not None else width
        masks[:, :, :columns] = masks[:, :, :columns][:, :, ::-1]
        found["masks"] = masks
    return found


def _sampled(
    mask: np.ndarray, first: Sequence[float], length: Sequence[float], shape: Sequence[int]
) -> np.ndarray:
    """Return the pixels of a mask at the centres of a grid over a part of it."""
    rows, columns = (
        np.clip(
            np.floor(begin + (np.arange(number) + 0.5) * sides / number).astype(int), 0, extent - 1
        )
        for begin, sides, number, extent in zip(first, length, shape, mask.shape, strict=True)
    )
    return mask[rows][:, columns]
