"""The parts of detectors as loops over boxes, pixels and samples, in NumPy's float64.

They are written from the definitions of the three implementations, apart from the code that they
check. Conventions are given by name: "legacy", "center", "torchvision".
"""

import math

import numpy as np

EXTENT = {"legacy": 1.0, "center": 0.0, "torchvision": 0.0}
BOUND = math.log(1000 / 16)


def anchors(padded, strides, name, scale=8, ratios=(0.5, 1.0, 2.0)):
    """Return the anchors of each level, in the order of rows, columns and ratios."""
    levels = []
    for stride in strides:
        rows, columns = (math.ceil(side / stride) for side in padded)
        down, right = stride, stride
        if name == "torchvision":
            down, right = padded[0] // rows, padded[1] // columns
        found = []
        for row in range(rows):
            for column in range(columns):
                for ratio in ratios:
                    width = stride * scale / math.sqrt(ratio)
                    height = stride * scale * math.sqrt(ratio)
                    box = [-width / 2, -height / 2, width / 2, height / 2]
                    if name == "legacy":
                        centre = (stride - 1) / 2
                        box = [
                            centre - (width - 1) / 2,
                            centre - (height - 1) / 2,
                            centre + (width - 1) / 2,
                            centre + (height - 1) / 2,
                        ]
                    if name != "center":
                        box = [round(side) for side in box]  # half to even
                    x, y = column * right, row * down
                    found.append([box[0] + x, box[1] + y, box[2] + x, box[3] + y])
        levels.append(np.array(found, np.float64))
    return levels


def overlap(a, b, name):
    """Return the IoU of two boxes; 0 without any area."""
    extent = EXTENT[name]
    width = max(min(a[2], b[2]) - max(a[0], b[0]) + extent, 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]) + extent, 0)
    areas = [(x[2] - x[0] + extent) * (x[3] - x[1] + extent) for x in (a, b)]
    union = areas[0] + areas[1] - width * height
    return width * height / union if union > 0 else 0.0


def overlaps(boxes, others, name):
    found = [[overlap(a, b, name) for b in others] for a in boxes]
    return np.array(found, np.float64).reshape(len(boxes), len(others))


def middle(box, name):
    """Return centre and sides of a box."""
    extent = EXTENT[name]
    centre = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return centre, (box[2] - box[0] + extent, box[3] - box[1] + extent)


def encode(box, reference, stds, name):
    (x, y), (w, h) = middle(box, name)
    (px, py), (pw, ph) = middle(reference, name)
    deltas = [(x - px) / pw, (y - py) / ph, math.log(w / pw), math.log(h / ph)]
    return [delta / std for delta, std in zip(deltas, stds, strict=True)]


def decode(deltas, reference, stds, name):
    dx, dy, dw, dh = (delta * std for delta, std in zip(deltas, stds, strict=True))
    (px, py), (pw, ph) = middle(reference, name)
    dw, dh = min(dw, BOUND), min(dh, BOUND)
    if name != "torchvision":
        dw, dh = max(dw, -BOUND), max(dh, -BOUND)
    x, y, w, h = px + pw * dx, py + ph * dy, pw * math.exp(dw), ph * math.exp(dh)
    add = EXTENT[name] / 2
    return [x - w / 2 + add, y - h / 2 + add, x + w / 2 - add, y + h / 2 - add]


def clip(box, size, name):
    bottom, right = (side - EXTENT[name] for side in size)
    most = [right, bottom, right, bottom]
    return [min(max(side, 0.0), bound) for side, bound in zip(box, most, strict=True)]


def assign(table, allowed, positive, negative, least, own_best):
    """Return the object of each candidate, -1 for negative and -2 for ignored ones.

    `table` has the IoU of all objects with all candidates; those not allowed don't take part.
    """
    found = np.full(table.shape[1], -2)
    for candidate in np.flatnonzero(allowed):
        column = table[:, candidate]
        best = column.max() if len(column) else 0.0
        if best < negative:
            found[candidate] = -1
        if len(column) and best >= positive:
            found[candidate] = column.argmax()
    if least is None or not any(allowed):
        return found
    for index, row in enumerate(table):
        most = max(row[allowed])
        if most >= least:
            for candidate in np.flatnonzero(allowed):
                if row[candidate] == most:
                    found[candidate] = table[:, candidate].argmax() if own_best else index
    return found


def nms(boxes, scores, threshold, name, classes=None):
    """Return the indices that greedy NMS keeps, in the order of the scores, ties by index."""
    kept = []
    for i in np.argsort(-np.asarray(scores), kind="stable"):
        rivals = [j for j in kept if classes is None or classes[j] == classes[i]]
        if all(overlap(boxes[j], boxes[i], name) <= threshold for j in rivals):
            kept.append(int(i))
    return kept


def propose(logits, deltas, levels, size, name, pre, post, most, threshold):
    """Return (box, logit, level) of the proposals of an image, the best first."""
    found = []
    for level, (scores, moves, boxes) in enumerate(zip(logits, deltas, levels, strict=True)):
        best = np.argsort(-scores, kind="stable")[:pre]
        proposed, kept = [], []
        for i in best:
            box = clip(decode(moves[i], boxes[i], (1, 1, 1, 1), name), size, name)
            _, sides = middle(box, name)
            if name == "center" and not min(sides) > 0:
                continue
            if name == "torchvision" and not min(sides) >= 1e-3:
                continue
            proposed.append(box)
            kept.append(scores[i])
        keep = nms(proposed, kept, threshold, name)[:post]
        found += [(proposed[i], kept[i], level) for i in keep]
    return sorted(found, key=lambda each: -each[1])[:most]


def detect(scores, deltas, proposals, size, name, least, threshold, most):
    """Return (box, score, label) of the detections of an image, the best first."""
    found = []
    for label in range(scores.shape[1]):
        boxes, kept = [], []
        for i, box in enumerate(proposals):
            moved = clip(decode(deltas[i, label], box, (0.1, 0.1, 0.2, 0.2), name), size, name)
            small = name == "torchvision" and min(middle(moved, name)[1]) < 1e-2
            if scores[i, label] > least and not small:
                boxes.append(moved)
                kept.append(scores[i, label])
        found += [(boxes[i], kept[i], label) for i in nms(boxes, kept, threshold, name)]
    return sorted(found, key=lambda each: -each[1])[:most]


def level(box, name):
    _, (w, h) = middle(box, name)
    side = math.sqrt(w * h)
    if name == "torchvision":
        return min(max(math.floor(4 + math.log2(side / 224) + 1e-6), 2), 5) - 2
    return min(max(math.floor(math.log2(side / 56 + 1e-6)), 0), 3)


def bilinear(features, y, x):
    """Return a sample of a map [height, width], as the compiled kernels compute it."""
    height, width = features.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = min(max(y, 0.0), height - 1), min(max(x, 0.0), width - 1)
    low, left = int(y), int(x)
    high, right = min(low + 1, height - 1), min(left + 1, width - 1)
    v, u = y - low, x - left
    top = features[low, left] * (1 - u) + features[low, right] * u
    bottom = features[high, left] * (1 - u) + features[high, right] * u
    return top * (1 - v) + bottom * v


def roi_align(features, roi, size, scale, name, ratio):
    """Return the bins [size, size] of a RoI on a map [height, width]; ratio 0 is adaptive."""
    shift, extent = 0.5 if name == "center" else 0.0, EXTENT[name]
    x, y = roi[0] * scale - shift, roi[1] * scale - shift
    width = (roi[2] + extent) * scale - shift - x
    height = (roi[3] + extent) * scale - shift - y
    if name == "torchvision":
        width, height = max(width, 1.0), max(height, 1.0)
    if name == "legacy":
        width, height = max(width, 0.0), max(height, 0.0)
    down, across = ratio or math.ceil(height / size), ratio or math.ceil(width / size)
    bins = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            total = 0.0
            for a in range(down):
                for b in range(across):
                    total += bilinear(
                        features,
                        y + (i + (a + 0.5) / down) * height / size,
                        x + (j + (b + 0.5) / across) * width / size,
                    )
            bins[i, j] = total / max(down * across, 1)
    return bins


def crop_and_resize(mask, box, size):
    """Return a mask's crop at whole pixels, resized as OpenCV resizes bytes."""
    x1, y1, x2, y2 = (int(side) for side in box)
    crop = mask[y1 : y1 + max(y2 - y1 + 1, 1), x1 : x1 + max(x2 - x1 + 1, 1)].astype(int)
    height, width = crop.shape
    found = np.zeros((size, size), int)
    for i in range(size):
        y = np.float32((i + 0.5) * height / size - 0.5)
        row = math.floor(y)
        v = [round((1 - float(y - row)) * 2048), round(float(y - row) * 2048)]
        for j in range(size):
            x = np.float32((j + 0.5) * width / size - 0.5)
            column = math.floor(x)
            u = [round((1 - float(x - column)) * 2048), round(float(x - column) * 2048)]
            if column < 0:
                column, u = 0, [2048, 0]
            if column >= width - 1:
                column, u = width - 1, [2048, 0]
            lines = []
            for each in (row, row + 1):
                pixels = crop[min(max(each, 0), height - 1)]
                lines.append(u[0] * pixels[column] + u[1] * pixels[min(column + 1, width - 1)])
            parts = [(v[k] * (lines[k] >> 4)) >> 16 for k in (0, 1)]
            found[i, j] = (parts[0] + parts[1] + 2) >> 2
    return found


def mask_target(mask, box, size, name):
    if name == "legacy":
        return crop_and_resize(mask, box, size)
    pooled = roi_align(mask, box, size, 1.0, name, 0)
    # Sums of weights that are 0.5 exactly are rounded to either side of it.
    return pooled if name == "torchvision" else (pooled >= 0.5 - 1e-6).astype(float)


def resized(mask, height, width):
    """Return a mask resized bilinearly; pixels at the border reach beyond it."""
    found, (rows, columns) = np.zeros((height, width)), mask.shape
    for i in range(height):
        for j in range(width):
            y = min(max((i + 0.5) * rows / height - 0.5, 0.0), rows - 1)
            x = min(max((j + 0.5) * columns / width - 0.5, 0.0), columns - 1)
            found[i, j] = bilinear(mask, y, x)
    return found


def paste(mask, box, size, name):
    """Return the probabilities of a mask in the pixels of an image."""
    height, width = size
    found = np.zeros(size)
    if name == "center":
        padded = np.pad(mask, 1)
        rows, columns = mask.shape
        for i in range(height):
            for j in range(width):
                y = (i + 0.5 - box[1]) / (box[3] - box[1]) * rows - 0.5
                x = (j + 0.5 - box[0]) / (box[2] - box[0]) * columns - 0.5
                if -1 < y < rows and -1 < x < columns:
                    found[i, j] = bilinear(padded, y + 1, x + 1)
        return found
    if name == "torchvision":
        scale = (len(mask) + 2) / len(mask)
        mask = np.pad(mask, 1)
        (x, y), (w, h) = middle(box, name)
        w, h = w / 2 * scale, h / 2 * scale
        box = [x - w, y - h, x + w, y + h]
    x1, y1, x2, y2 = (int(side) for side in box)
    whole = resized(mask, max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1))
    for i, row in enumerate(whole):
        for j, value in enumerate(row):
            if 0 <= y1 + i < height and 0 <= x1 + j < width:
                found[y1 + i, x1 + j] = value
    return found
