"""Mask R-CNN on a ResNet in plain PyTorch, as torchvision defines it, with torchvision's names.

Nothing is compiled: NMS is a loop over boxes and RoIAlign is indexing, as in torchvision without
its compiled operators. `losses` returns the losses of a training step, `forward` the detections.
Images have one size. The numbers of samples and proposals are taken from one of our detectors.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aggnets_jax.detection.detector import Detector
from aggnets_jax.detection.proposals import Limits
from aggnets_jax.detection.proposals import limits as standard_limits

_BOUND = math.log(1000 / 16)


class Target(NamedTuple):
    """Objects of an image.

    Attributes:
      boxes: float [objects, 4].
      labels: classes from 1 on, int64 [objects].
      masks: float [objects, height, width].
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor


class _Block(nn.Module):
    """A bottleneck with the stride in its 3x3 convolution."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = None
        if stride > 1 or inputs != 4 * width:
            projection = nn.Conv2d(inputs, 4 * width, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, height, width] -> the same, by the stride smaller."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class _Body(nn.Module):
    """ResNet-50; stem and first stage are frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inputs = 64
        for number, depth in enumerate((3, 4, 6, 3), 1):
            width, blocks = 32 << number, []
            for i in range(depth):
                stride = 2 if i == 0 and number > 1 else 1
                blocks.append(_Block(inputs, width, stride))
                inputs = 4 * width
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
        for part in (self.conv1, self.bn1, self.layer1):
            part.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the outputs of the four stages."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        levels = []
        for number in range(1, 5):
            x = getattr(self, f"layer{number}")(x)
            levels.append(x)
        return levels


class _Pyramid(nn.Module):
    def __init__(self, inputs: Sequence[int], features: int) -> None:
        super().__init__()
        wrapped = [nn.Sequential(nn.Conv2d(n, features, 1)) for n in inputs]
        self.inner_blocks = nn.ModuleList(wrapped)
        wrapped = [nn.Sequential(nn.Conv2d(features, features, 3, padding=1)) for _ in inputs]
        self.layer_blocks = nn.ModuleList(wrapped)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Return a map for each level, and one more."""
        sums = [conv(x) for conv, x in zip(self.inner_blocks, levels, strict=True)]
        for i in reversed(range(len(sums) - 1)):
            sums[i] = sums[i] + F.interpolate(sums[i + 1], size=sums[i].shape[2:], mode="nearest")
        maps = [conv(x) for conv, x in zip(self.layer_blocks, sums, strict=True)]
        return [*maps, F.max_pool2d(maps[-1], 1, 2)]


class _RPNHead(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Sequential(nn.Conv2d(features, features, 3, padding=1)))
        self.cls_logits = nn.Conv2d(features, 3, 1)
        self.bbox_pred = nn.Conv2d(features, 12, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [batch, anchors] and deltas [batch, anchors, 4] of a map."""
        x = F.relu(self.conv(x))
        logits = self.cls_logits(x).permute(0, 2, 3, 1).flatten(1)
        return logits, self.bbox_pred(x).permute(0, 2, 3, 1).reshape(len(x), -1, 4)


class MaskRCNN(nn.Module):
    """Mask R-CNN in the conventions of torchvision.

    Args:
      detector: our detector, with a ResNet-50 and these conventions.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        sizes, classes = detector.sizes, detector.num_classes + 1
        self.samples, self.settings = detector.samples, detector
        self.limits: list[Limits] = list(
            detector.limits or [standard_limits(detector.conventions, train=t) for t in (1, 0)]
        )
        features, hidden = sizes.pyramid, sizes.hidden
        fpn = _Pyramid((256, 512, 1024, 2048), features)
        self.backbone = nn.ModuleDict({"body": _Body(), "fpn": fpn})
        self.rpn = nn.ModuleDict({"head": _RPNHead(features)})
        fc6, fc7 = nn.Linear(49 * features, hidden), nn.Linear(hidden, hidden)
        scores, deltas = nn.Linear(hidden, classes), nn.Linear(hidden, 4 * classes)
        first = [features] + [sizes.mask] * (sizes.mask_depth - 1)
        convs = [nn.Sequential(nn.Conv2d(n, sizes.mask, 3, padding=1), nn.ReLU()) for n in first]
        upsample = nn.ConvTranspose2d(sizes.mask, sizes.mask, 2, 2)
        last = nn.Conv2d(sizes.mask, classes, 1)
        mask = OrderedDict(conv5_mask=upsample, relu=nn.ReLU(), mask_fcn_logits=last)
        self.roi_heads = nn.ModuleDict(
            {
                "box_head": nn.ModuleDict({"fc6": fc6, "fc7": fc7}),
                "box_predictor": nn.ModuleDict({"cls_score": scores, "bbox_pred": deltas}),
                "mask_head": nn.Sequential(*convs),
                "mask_predictor": nn.Sequential(mask),
            }
        )

    def features(self, images: Tensor) -> list[Tensor]:
        """Return the maps of the pyramid of [batch, 3, height, width]."""
        return self.backbone["fpn"](self.backbone["body"](images))

    def propose(self, images: Tensor, maps: list[Tensor], *, train: bool) -> tuple[Tensor, ...]:
        """Return anchors, logits, deltas, and a list of the proposals of each image."""
        found = [self.rpn["head"](x) for x in maps]
        size = images.shape[2:]
        levels = [_anchors(size, x.shape[2:], 4 << i).to(images) for i, x in enumerate(maps)]
        limits, proposals = self.limits[0 if train else 1], []
        for image in range(len(images)):
            boxes, scores = [], []
            for (logits, deltas), anchors in zip(found, levels, strict=True):
                top = logits[image].detach().topk(min(limits.pre_nms, len(anchors)))
                moved = deltas[image].detach()[top.indices]
                decoded = _clip(_decode(moved, anchors[top.indices], (1, 1, 1, 1)), size)
                large = ((decoded[:, 2:] - decoded[:, :2]) >= 1e-3).all(1)
                decoded, values = decoded[large], top.values[large]
                keep = _nms(decoded, values, limits.threshold)
                boxes.append(decoded[keep])
                scores.append(values[keep])
            best = torch.cat(scores).sort(descending=True, stable=True).indices
            proposals.append(torch.cat(boxes)[best[: limits.proposals]])
        logits, deltas = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
        return torch.cat(levels), logits, deltas, proposals

    def pool(self, maps: list[Tensor], boxes: list[Tensor], size: int) -> Tensor:
        """Pool the boxes of each image to [boxes, channels, size, size]."""
        image = torch.cat([torch.full((len(b),), i) for i, b in enumerate(boxes)])
        rois = torch.cat(boxes)
        side = ((rois[:, 2] - rois[:, 0]) * (rois[:, 3] - rois[:, 1])).sqrt()
        level = (torch.floor(4 + torch.log2(side / 224) + 1e-6).clamp(2, 5) - 2).long()
        pooled = rois.new_zeros(len(rois), maps[0].shape[1], size, size)
        for i, features in enumerate(maps[:-1]):
            own = torch.nonzero(level == i)[:, 0]
            found = _roi_align(features, rois[own], image[own], size, 1 / (4 << i))
            pooled = pooled.index_copy(0, own, found)
        return pooled

    def heads(self, maps: list[Tensor], boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return logits [boxes, classes + 1] and deltas [boxes, classes + 1, 4]."""
        x = self.pool(maps, boxes, 7).flatten(1)
        head, last = self.roi_heads["box_head"], self.roi_heads["box_predictor"]
        x = F.relu(head["fc7"](F.relu(head["fc6"](x))))
        return last["cls_score"](x), last["bbox_pred"](x).reshape(len(x), -1, 4)

    def masks(self, maps: list[Tensor], boxes: list[Tensor]) -> Tensor:
        """Return the logits of masks [boxes, classes + 1, 28, 28]."""
        hidden = self.roi_heads["mask_head"](self.pool(maps, boxes, 14))
        return self.roi_heads["mask_predictor"](hidden)

    def losses(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Return the losses of a batch by our names."""
        maps = self.features(images)
        anchors, logits, deltas, proposals = self.propose(images, maps, train=True)
        samples = self.samples
        score, box, number = 0.0, 0.0, 0
        for image, target in enumerate(targets):
            own = _match(target.boxes, anchors, 0.7, 0.3, low_quality=True)
            positive, negative = _sample(own, samples.anchors, samples.positive_anchors)
            every = torch.cat([positive, negative])
            truth = (own[every] >= 0).to(logits)
            score = score + F.binary_cross_entropy_with_logits(
                logits[image, every], truth, reduction="sum"
            )
            wanted = _encode(target.boxes[own[positive]], anchors[positive], (1, 1, 1, 1))
            box = box + _smooth_l1(deltas[image, positive] - wanted)
            number += len(every)
        found = {"rpn_class": score / number, "rpn_box": box / number}
        return found | self._roi_losses(maps, proposals, targets)

    def _roi_losses(
        self, maps: list[Tensor], proposals: list[Tensor], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        boxes, labels, wanted, masked, shapes = [], [], [], [], []
        for proposed, target in zip(proposals, targets, strict=True):
            rois = torch.cat([proposed, target.boxes])
            own = _match(target.boxes, rois, 0.5, 0.5, low_quality=False)
            most = self.samples.positive_rois
            positive, negative = _sample(own, self.samples.rois, most)
            boxes.append(rois[torch.cat([positive, negative])])
            masked.append(rois[positive])
            classes = target.labels[own[positive]]
            labels.append(torch.cat([classes, torch.zeros_like(negative)]))
            stds = (0.1, 0.1, 0.2, 0.2)
            wanted.append(_encode(target.boxes[own[positive]], rois[positive], stds))
            maps_of_mask = target.masks[:, None]
            shapes.append(_roi_align(maps_of_mask, rois[positive], own[positive], 28, 1.0, 0)[:, 0])
        logits, deltas = self.heads(maps, boxes)
        columns = torch.cat(labels)
        own = torch.nonzero(columns)[:, 0]
        box = _smooth_l1(deltas[own, columns[own]] - torch.cat(wanted)) / len(columns)
        masks = self.masks(maps, masked)[torch.arange(len(own)), columns[own]]
        loss = F.binary_cross_entropy_with_logits(masks, torch.cat(shapes))
        return {"class": F.cross_entropy(logits, columns), "box": box, "mask": loss}

    def forward(self, images: Tensor) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Return boxes, scores, labels from 1 on and masks [n, 28, 28] of each image."""
        maps, size = self.features(images), images.shape[2:]
        *_, proposals = self.propose(images, maps, train=False)
        logits, deltas = self.heads(maps, proposals)
        settings, found, first = self.settings, [], 0
        for image, rois in enumerate(proposals):
            rows = slice(first, first + len(rois))
            first += len(rois)
            scores = logits[rows].softmax(1)[:, 1:]
            moved = _decode(deltas[rows, 1:], rois[:, None], (0.1, 0.1, 0.2, 0.2))
            boxes = _clip(moved, size).reshape(-1, 4)
            labels = torch.arange(1, scores.shape[1] + 1).repeat(len(rois))
            scores = scores.reshape(-1)
            large = ((boxes[:, 2:] - boxes[:, :2]) >= 1e-2).all(1)
            good = (scores > settings.least_score) & large
            boxes, scores, labels = boxes[good], scores[good], labels[good]
            shifted = boxes + labels[:, None] * (max(size) + 1)
            keep = _nms(shifted, scores, settings.nms_threshold)[: settings.most]
            boxes, scores, labels = boxes[keep], scores[keep], labels[keep]
            of_image = [x[image : image + 1] for x in maps]
            masks = self.masks(of_image, [boxes])[torch.arange(len(keep)), labels].sigmoid()
            found.append((boxes, scores, labels, masks))
        return found


def _anchors(size: Sequence[int], shape: Sequence[int], stride: int) -> Tensor:
    root = torch.tensor([0.5, 1, 2], dtype=torch.float64).sqrt()
    half = torch.stack([-8 * stride / root, -8 * stride * root], 1) / 2
    base = torch.cat([half, -half], 1).round()
    steps = size[0] // shape[0], size[1] // shape[1]
    sides = (torch.arange(n) * step for n, step in zip(shape, steps, strict=True))
    y, x = torch.meshgrid(*sides, indexing="ij")
    shifts = torch.stack([x, y, x, y], -1).reshape(-1, 1, 4)
    return (shifts + base).reshape(-1, 4)


def _decode(deltas: Tensor, boxes: Tensor, stds: Sequence[float]) -> Tensor:
    deltas = deltas * deltas.new_tensor(stds)
    sides = boxes[..., 2:] - boxes[..., :2]
    centre = boxes[..., :2] + sides / 2 + deltas[..., :2] * sides
    half = sides * deltas[..., 2:].clamp(max=_BOUND).exp() / 2
    return torch.cat([centre - half, centre + half], -1)


def _encode(boxes: Tensor, references: Tensor, stds: Sequence[float]) -> Tensor:
    sides, own = references[:, 2:] - references[:, :2], boxes[:, 2:] - boxes[:, :2]
    shift = (boxes[:, :2] + own / 2 - references[:, :2] - sides / 2) / sides
    return torch.cat([shift, (own / sides).log()], 1) / boxes.new_tensor(stds)


def _clip(boxes: Tensor, size: Sequence[int]) -> Tensor:
    most = boxes.new_tensor([size[1], size[0], size[1], size[0]])
    return boxes.clamp(min=0).minimum(most)


def _iou(boxes: Tensor, others: Tensor) -> Tensor:
    corner = torch.maximum(boxes[:, None, :2], others[:, :2])
    sides = (torch.minimum(boxes[:, None, 2:], others[:, 2:]) - corner).clamp(min=0)
    areas = [(x[:, 2] - x[:, 0]) * (x[:, 3] - x[:, 1]) for x in (boxes, others)]
    both = sides.prod(-1)
    return both / (areas[0][:, None] + areas[1] - both)


def _nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Return the indices of the kept boxes, the best first."""
    rest, kept = scores.sort(descending=True, stable=True).indices, []
    while len(rest):
        kept.append(rest[0])
        rest = rest[1:][_iou(boxes[rest[:1]], boxes[rest[1:]])[0] <= threshold]
    return torch.stack(kept) if kept else rest


def _match(
    boxes: Tensor, candidates: Tensor, high: float, low: float, *, low_quality: bool
) -> Tensor:
    """Return the object of each candidate; -1 for negative and -2 for ignored ones."""
    if not len(boxes):
        return torch.full((len(candidates),), -1)
    table = _iou(boxes, candidates)
    best, own = table.max(0)
    found = torch.where(best >= high, own, torch.where(best < low, -1, -2))
    if low_quality:
        reached = (table == table.max(1, keepdim=True).values).any(0)
        found = torch.where(reached, own, found)
    return found


def _sample(own: Tensor, number: int, positives: int) -> tuple[Tensor, Tensor]:
    positive, negative = torch.nonzero(own >= 0)[:, 0], torch.nonzero(own == -1)[:, 0]
    positive = positive[torch.randperm(len(positive))[:positives]]
    return positive, negative[torch.randperm(len(negative))[: number - len(positive)]]


def _smooth_l1(difference: Tensor) -> Tensor:
    return F.smooth_l1_loss(difference, torch.zeros_like(difference), reduction="sum", beta=1 / 9)


def _roi_align(
    maps: Tensor, rois: Tensor, image: Tensor, size: int, scale: float, ratio: int = 2
) -> Tensor:
    """Pool RoIs [rois, 4] of maps [batch, channels, height, width] by indexing; 0 is adaptive."""
    if not ratio:
        pooled = [
            _roi_align_one(maps, *each, size, scale) for each in zip(rois, image, strict=True)
        ]
        return torch.stack(pooled) if pooled else maps.new_zeros(0, maps.shape[1], size, size)
    axes = []
    for first, extent in ((1, maps.shape[2]), (0, maps.shape[3])):
        start = rois[:, first] * scale
        length = (rois[:, first + 2] * scale - start).clamp(min=1)
        at = (torch.arange(size * ratio).to(rois) + 0.5) / (size * ratio)
        position = start[:, None] + at * length[:, None]
        inside = (position >= -1) & (position <= extent)
        position = position.clamp(0, extent - 1)
        low = position.floor()
        part = position - low
        high = (low + 1).clamp(max=extent - 1)
        axes.append(((low.long(), (1 - part) * inside), (high.long(), part * inside)))
    total = 0
    for y, y_weight in axes[0]:
        for x, x_weight in axes[1]:
            values = maps[image[:, None, None], :, y[:, :, None], x[:, None]]
            total = total + values * (y_weight[:, :, None] * x_weight[:, None])[..., None]
    shape = (len(rois), size, ratio, size, ratio, maps.shape[1])
    return total.reshape(shape).mean((2, 4)).permute(0, 3, 1, 2)  # type: ignore[attr-defined]


def _roi_align_one(maps: Tensor, roi: Tensor, image: Tensor, size: int, scale: float) -> Tensor:
    """Pool a RoI with as many samples of a bin as it has cells, rounded up."""
    sides = ((roi[2:] - roi[:2]) * scale).clamp(min=1)
    ratio = [max(math.ceil(side / size), 1) for side in sides.flip(0).tolist()]
    # As many samples along both sides as the longer one needs would be another mean.
    axes = []
    for axis, number in ((1, ratio[0]), (0, ratio[1])):
        extent = maps.shape[2 if axis else 3]
        at = (torch.arange(size * number).to(roi) + 0.5) / (size * number)
        position = roi[axis] * scale + at * sides[axis]
        inside = (position >= -1) & (position <= extent)
        hat = 1 - (position.clamp(0, extent - 1)[:, None] - torch.arange(extent).to(roi)).abs()
        weights = hat.clamp(min=0) * inside[:, None]
        axes.append(weights.reshape(size, number, extent).mean(1))
    return torch.einsum("ih,chw,jw->cij", axes[0], maps[image], axes[1])
