"""The authors' formulas in numpy and SciPy, image by image, given the random numbers.

They follow https://github.com/hendrycks/robustness step by step; OpenCV's, scikit-image's and
ImageMagick's functions are replaced by what these document. Images are uint8 [H, W, C].
"""

import io

import numpy as np
from PIL import Image
from scipy import ndimage


def gaussian(image, sigma, mode="nearest", truncate=4.0):
    if sigma == 0:
        return image
    sigmas = (sigma, sigma, 0)[: image.ndim]
    return ndimage.gaussian_filter(image, sigmas, mode=mode, truncate=truncate)


def clipped_zoom(image, factor):
    found = image
    for axis in (0, 1):
        size = image.shape[axis]
        kept = int(np.ceil(size / factor))
        first = (size - kept) // 2
        middle = np.take(found, np.arange(first, first + kept), axis)
        factors = [1.0] * image.ndim
        factors[axis] = factor
        found = ndimage.zoom(middle, factors, order=1)
        trimmed = (found.shape[axis] - size) // 2
        found = np.take(found, np.arange(trimmed, trimmed + size), axis)
    return found


def gaussian_noise(x, normal, scale):
    return x / 255 + scale * normal


def shot_noise(x, counts, photons):
    return counts / photons


def impulse_noise(x, hit, salt):
    x = x / 255
    x[hit & salt] = 1
    x[hit & ~salt] = 0
    return x


def defocus_blur(x, radius, edge):
    line, taps = (np.arange(-8, 9), 3) if radius <= 8 else (np.arange(-radius, radius + 1), 5)
    across, down = np.meshgrid(line, line)
    kernel = np.float64(across**2 + down**2 <= radius**2)
    kernel /= kernel.sum()
    weights = np.exp(-((np.arange(taps) - taps // 2) ** 2) / (2 * edge**2))
    weights /= weights.sum()
    kernel = ndimage.correlate(kernel, np.outer(weights, weights), mode="mirror")
    planes = [ndimage.correlate(x[..., c] / 255, kernel, mode="mirror") for c in range(x.shape[-1])]
    return np.stack(planes, axis=-1)


def glass_blur(x, moves, sigma, distance, times):
    height, width, _ = x.shape
    x = np.uint8(gaussian(x / 255, sigma) * 255 + 1e-9)
    for each in moves:
        for h in range(height - distance, distance, -1):
            for w in range(width - distance, distance, -1):
                dy, dx = each[h, w]
                # As in the authors' code: both sides are views of the same array.
                x[h, w], x[h + dy, w + dx] = x[h + dy, w + dx], x[h, w]
    assert len(moves) == times
    return gaussian(x / 255, sigma)


def motion_blurred(levels, angle, radius, sigma):
    """Return ImageMagick's MagickMotionBlurImage of levels, rounded."""
    width = 2 * int(np.ceil(radius)) + 1
    kernel = np.array([np.exp(-(i**2) / (2 * sigma**2)) for i in range(width)])
    kernel /= kernel.sum()
    height, columns = levels.shape[:2]
    found = np.zeros(levels.shape)
    for i in range(width):
        right = int(np.ceil(i * np.cos(np.radians(angle)) - 0.5))
        down = int(np.ceil(i * np.sin(np.radians(angle)) - 0.5))
        for y in range(height):
            for x in range(columns):
                row = min(max(y + down, 0), height - 1)
                found[y, x] += kernel[i] * levels[row, min(max(x + right, 0), columns - 1)]
    return np.round(found)


def motion_blur(x, angle, radius, sigma):
    return motion_blurred(np.float64(x), angle, radius, sigma) / 255


def zoom_blur(x, stop, step):
    factors = np.arange(1, stop, step)
    x = x / 255
    return (x + sum(clipped_zoom(x, factor) for factor in factors)) / (len(factors) + 1)


def snow(x, normal, angle, mean, deviation, zoom, least, radius, sigma, own):
    x = x / 255
    layer = clipped_zoom(mean + deviation * normal, zoom)
    layer[layer < least] = 0
    layer = np.uint8(np.clip(layer, 0, 1) * 255)
    layer = motion_blurred(np.float64(layer), angle, radius, sigma) / 255
    grey = x @ [[0.299], [0.587], [0.114]] if x.shape[-1] == 3 else x
    x = own * x + (1 - own) * np.maximum(x, grey * 1.5 + 0.5)
    return x + layer + np.rot90(layer, k=2)


def frost(x, photograph, own, added):
    return own * x / 255 + added * photograph


def plasma(noise, size, decay):
    """Return the diamond-square map, cell by cell; `noise` has each step's uniform numbers."""
    heights = np.zeros((size, size))
    step, wobble = size, 100.0
    for middle, above, beside in noise:
        half, n = step // 2, size // step
        for i in range(n):
            for j in range(n):
                y, x, last_y, last_x = i * step, j * step, (i + 1) * step, (j + 1) * step
                corners = [heights[a % size, b % size] for a in (y, last_y) for b in (x, last_x)]
                heights[y + half, x + half] = np.mean(corners) + wobble**2 * middle[i, j]
        for i in range(n):
            for j in range(n):
                y, x = i * step, j * step
                for (cy, cx), number in (((y, x + half), above), ((y + half, x), beside)):
                    around = [(cy - half, cx), (cy + half, cx), (cy, cx - half), (cy, cx + half)]
                    mean = np.mean([heights[a % size, b % size] for a, b in around])
                    heights[cy, cx] = mean + wobble**2 * number[i, j]
        step, wobble = half, wobble / decay
    heights -= heights.min()
    return heights / heights.max()


def fog(x, noise, strength, decay):
    height, width, _ = x.shape
    size = 2 ** int(np.ceil(np.log2(max(height, width))))
    x = x / 255
    largest = x.max()
    x = x + strength * plasma(noise, size, decay)[:height, :width, None]
    return x * largest / (largest + strength)


def brightness(x, shift):
    """Raise V of HSV by the textbook's conversions, pixel by pixel."""
    import colorsys

    found = np.zeros(x.shape)
    for place in np.ndindex(*x.shape[:2]):
        red, green, blue = np.broadcast_to(x[place] / 255, 3)
        hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
        back = colorsys.hsv_to_rgb(hue, saturation, min(value + shift, 1))
        found[place] = back[: x.shape[-1]]
    return found


def contrast(x, factor):
    x = x / 255
    means = np.mean(x, axis=(0, 1), keepdims=True)
    return (x - means) * factor + means


def elastic_transform(x, points, fields, strength, sigma, shift):
    """Warp by the affine map of three points and then by the fields; lengths in pixels."""
    del shift  # the points are drawn with it
    height, width, channels = x.shape
    middle, reach = np.array([height, width]) // 2, min(height, width) // 3
    old = np.float64([middle + reach, middle + np.array([reach, -reach]), middle - reach])
    new = old + points
    forward = np.linalg.solve(np.c_[old, np.ones(3)], new).T  # [2, 3]: from old to new
    inverse = np.linalg.inv(forward[:, :2])
    rows, columns = np.indices((height, width))
    across, down = np.einsum(
        "ij,jhw->ihw", inverse, np.stack([columns, rows]) - forward[:, 2][:, None, None]
    )
    x = x / 255
    x = np.stack(
        [
            ndimage.map_coordinates(x[..., c], [down, across], order=1, mode="mirror")
            for c in range(channels)
        ],
        axis=-1,
    )
    dx, dy = (gaussian(field, sigma, "reflect", 3) * strength for field in fields)
    return np.stack(
        [
            ndimage.map_coordinates(x[..., c], [rows + dy, columns + dx], order=1, mode="reflect")
            for c in range(channels)
        ],
        axis=-1,
    )


def _pil(x):
    return Image.fromarray(x if x.shape[-1] == 3 else x[..., 0])


def pixelate(x, factor):
    height, width, _ = x.shape
    small = _pil(x).resize((int(width * factor), int(height * factor)), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BOX)).reshape(x.shape) / 255


def jpeg_compression(x, quality):
    content = io.BytesIO()
    _pil(x).save(content, "JPEG", quality=quality)
    return np.asarray(Image.open(content)).reshape(x.shape) / 255
