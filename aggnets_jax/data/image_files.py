"""Images read by PIL with the pixels that TensorFlow's decoders give: upright, in colours."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import ExifTags, Image

# How an image of each orientation comes upright; and back, where that is another turn.
_TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BACK = {
    Image.Transpose.ROTATE_270: Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_90: Image.Transpose.ROTATE_270,
}
# Tags of a TIFF: bits of a value, and whether 0 is white.
_BITS, _PHOTOMETRIC = 258, 262

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
    turn, tags = _TURNS[orientation(image)], getattr(image, "tag_v2", {})
    if _is_turned_by_pil(image):  # as it is loaded
        turn = _BACK.get(turn, turn) if stays else None
    elif stays:
        turn = None
    if turn is not None:  # PIL's `exif_transpose` also writes EXIF data, and fails at odd ones
        image = image.transpose(turn)
    if image.mode.startswith("I;16"):  # PIL would clip 16 bits rather than drop the lower ones
        grey = (np.asarray(image) >> tags.get(_BITS, (16,))[0] - 8).astype(np.uint8)
        white_is_zero = tags.get(_PHOTOMETRIC) == 0
        return np.repeat((255 - grey if white_is_zero else grey)[..., None], 3, axis=-1)
    if image.mode in ("F", "I"):
        raise ValueError(f"no range of colours is known for mode {image.mode}")
    if image.mode == "P":  # with transparency, PIL would warn
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))


def _is_turned_by_pil(image: Image.Image) -> bool:
    return image.format == "TIFF"


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
    if _is_turned_by_pil(image) and orientation(image) >= 5:  # its size, too
        return width, height
    return height, width
