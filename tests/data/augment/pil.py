"""The operations of policies as PIL and the papers have them, and images to try them on."""

import numpy as np
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_sample_image

ENHANCEMENTS = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "color": ImageEnhance.Color,
    "sharpness": ImageEnhance.Sharpness,
}
SIGNED = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
OTHERS = ("identity", "posterize", "solarize", "invert", "autocontrast", "equalize", *ENHANCEMENTS)


def photo(width, height):
    """Return a photograph: uint8 [height, width, 3]."""
    picture = Image.fromarray(load_sample_image("china.jpg"))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))


def operate(name, strength, pixels):
    """Apply an operation, with a strength from -1 to 1, to uint8 [H, W, C]."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    return np.asarray(_operate(name, strength, image)).reshape(pixels.shape)


def _operate(name, strength, image):
    def affine(*matrix):
        return image.transform(image.size, Image.Transform.AFFINE, matrix)

    width, height = image.size
    match name:
        case "identity":
            return image
        case "shear_x":
            return affine(1, 0.3 * strength, 0, 0, 1, 0)
        case "shear_y":
            return affine(1, 0, 0, 0.3 * strength, 1, 0)
        case "translate_x":
            return affine(1, 0, int(strength * width * 150 / 331), 0, 1, 0)
        case "translate_y":
            return affine(1, 0, 0, 0, 1, int(strength * height * 150 / 331))
        case "rotate":
            return image.rotate(30 * strength)
        case "posterize":
            return ImageOps.posterize(image, 8 - round(4 * strength))
        case "solarize":
            return ImageOps.solarize(image, 256 * (1 - strength))
        case "invert":
            return ImageOps.invert(image)
        case "autocontrast":
            return ImageOps.autocontrast(image)
        case "equalize":
            return ImageOps.equalize(image)
    return ENHANCEMENTS[name](image).enhance(0.1 + 1.8 * strength)
