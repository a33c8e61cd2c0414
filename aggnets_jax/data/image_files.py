"""Images read by PIL with the pixels that TensorFlow's decoders give: upright, in colours."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import ExifTags, Image, ImageOps

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")


def read_picture(
    encoded: bytes, *, formats: Sequence[str] = FORMATS, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Return an image in colours, uint8 [height, width, 3].

    Grey and palettes become colours, and transparency is dropped; of several pictures the first is
    read, and of 16 bits the higher 8. An image that is stored turned or mirrored comes upright, as
    from PIL's `exif_transpose`. But if only the stored image has the (height, width) `size`, it
    stays as stored: objects were annotated in it like this.

    Raises:
      Exception: any, for a file that is damaged or in none of the `formats`.
    """
    image = Image.open(io.BytesIO(encoded), formats=formats)
    stays = _stored_size(image) == size != upright_size(image)
    if orientation(image) != 1 and not stays:
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I;16"):  # PIL would clip 16 bits rather than drop the lower ones
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=-1)
    if image.mode in ("F", "I"):
        raise ValueError(f"no range of colours is known for mode {image.mode}")
    if image.mode == "P":  # with transparency, PIL would warn
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return the (height, width) that an image has when it is upright."""
    height, width = _stored_size(image)
    return (width, height) if orientation(image) >= 5 else (height, width)


def orientation(image: Image.Image) -> int:
    """Return how an image is stored, from 1 (upright) to 8 of EXIF's table."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # of an image that may be whole but for its EXIF data
        return 1
    return found if found in range(1, 9) else 1


def _stored_size(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    return height, width
