"""Draws docs/schedules.png, the learning rates of the papers' recipes: python docs/schedules.py."""

from pathlib import Path

import jax
import numpy as np
from matplotlib.figure import Figure

from aggnets_jax.training.schedules import make_schedule

# Of each: the schedule, its arguments, the highest learning rate, epochs, images and batch size.
CIFAR, IMAGENET = 50_000, 1_281_167
RECIPES = {
    "SparseNet and SeqConv, CIFAR": ("step", {}, 0.1, 300, CIFAR, 64),
    "DSNet, ImageNet": ("step", {"boundaries": (0.3, 0.6, 0.9)}, 0.05, 100, IMAGENET, 128),
    "Micro-Dense Nets, 20 epochs of warm-up": (
        "warmup_cosine",
        {"warmup_epochs": 20},
        0.1,
        300,
        CIFAR,
        128,
    ),
    "HCGNet-A1, CIFAR": (
        "sgdr",
        {"first_cycle_epochs": 10, "every": "epoch"},
        0.1,
        1270,
        CIFAR,
        128,
    ),
    "HCGNet-A2 and A3, CIFAR": (
        "sgdr",
        {"first_cycle_epochs": 10, "every": "epoch", "repeats": 2},
        0.1,
        1260,
        CIFAR,
        128,
    ),
    "Linear warm-up, then half a cosine": ("cosine", {"warmup_epochs": 5}, 0.1, 90, IMAGENET, 256),
}


def figure() -> Figure:
    """Return a curve of 3,000 steps over the epochs of each recipe."""
    figure = Figure(figsize=(12, 5), dpi=120)
    for axes, (title, recipe) in zip(figure.subplots(2, 3).flat, RECIPES.items(), strict=True):
        name, arguments, lr, epochs, images, batch_size = recipe
        total_steps = round(epochs * images / batch_size)
        schedule = make_schedule(name, lr, total_steps, images / batch_size, **arguments)
        steps = np.linspace(0, total_steps - 1, 3000).astype(np.int32)
        axes.plot(steps * (batch_size / images), jax.vmap(schedule)(steps), linewidth=1)
        axes.set(title=title, xlabel="epochs", ylim=(0, None))
        axes.set_ylabel("learning rate")
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    figure().savefig(Path(__file__).with_suffix(".png"))
