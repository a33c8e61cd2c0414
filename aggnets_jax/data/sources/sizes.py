"""The size of stored images, from their headers."""

import io
from collections.abc import Collection

from PIL import Image

from aggnets_jax.data.examples import Examples
from aggnets_jax.data.image_files import upright_size

# Sets that would take more bytes, uncompressed, can't live on the devices. Their images are
# streamed and resized, so that their sizes do not matter.
MOST_BYTES = 1 << 30
_GREY = ("1", "L", "LA", "I", "I;16", "I;16B")


def one_shape(splits: Collection[Examples]) -> tuple[int | None, int | None, int]:
    """Return the (height, width, channels) of all images; None for sides that vary.

    Only sets that might live on the devices are read for this; other sets have sides that vary, and
    three channels. There is one channel if all images are grey.
    """
    first = next((shape for examples in splits if (shape := _shape(examples, 0))), None)
    if first is None:
        return None, None, 3
    height, width, _ = first
    if sum(map(len, splits)) * height * width * 3 > MOST_BYTES:
        return None, None, 3
    shapes = {_shape(examples, i) for examples in splits for i in range(len(examples))} - {None}
    channels = max(channels for _, _, channels in shapes)
    if len({shape[:2] for shape in shapes}) > 1:
        return None, None, channels
    return height, width, channels


def _shape(examples: Examples, index: int) -> tuple[int, int, int] | None:
    """Return the shape of an upright image, or None if it is damaged, which is reported later."""
    try:
        image = Image.open(io.BytesIO(examples.read(index)[0]))
        return *upright_size(image), 1 if image.mode in _GREY else 3
    except Exception:
        return None
