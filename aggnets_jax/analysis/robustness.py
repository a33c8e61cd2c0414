"""Accuracy on images that are changed to deceive the network: FGSM and PGD.

FGSM: Goodfellow, Shlens and Szegedy, "Explaining and Harnessing Adversarial Examples", ICLR 2015,
arXiv 1412.6572, Section 4; drawn in the HCGNet paper (Figure 5). PGD: Madry et al., "Towards Deep
Learning Models Resistant to Adversarial Attacks", ICLR 2018, arXiv 1706.06083, eq. 2.1 and below.
"""

import argparse
import itertools
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from aggnets_jax import data
from aggnets_jax.analysis import command
from aggnets_jax.analysis.plots import add_legend
from aggnets_jax.errors import UserError, unknown
from aggnets_jax.evaluate import evaluate, evaluation_batches, make_eval_step
from aggnets_jax.files import AnyPath
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.runtime.compilation import compiler_options
from aggnets_jax.tasks.classification import Classification, score
from aggnets_jax.training.state import Variables
from aggnets_jax.workdir.restore import Restored, restore_network

ATTACKS = ("fgsm", "pgd")
NO_ATTACK = "none"
# The epsilons of HCGNet's Figure 5, and the usual ones for eight-bit images.
EPSILONS = (
    *("0.001", "0.002", "0.003", "0.004", "0.005"),
    *("1/255", "2/255", "4/255", "8/255", "16/255", "32/255"),
)
# The length of PGD's path in epsilons: enough to reach any corner of the cube from anywhere in it,
# and to move on its faces (arXiv 1706.06083, Section 5).
_WAY = 2.5


class Attack(NamedTuple):
    """A way to change images, by at most epsilon in each pixel and channel.

    Attributes:
      name: "fgsm" or "pgd".
      steps: number of steps along the sign of the gradient.
      step_size: length of a step, in units of epsilon.
      random_start: whether the first step begins anywhere in the cube, not at the image.
    """

    name: str
    steps: int
    step_size: float
    random_start: bool


def make_attack(name: str, steps: int = 10, step_size: float | None = None) -> Attack:
    """Make FGSM, which is one step of size epsilon, or PGD with these steps.

    The default size of a step, in units of epsilon, is 2.5 / steps.

    Raises:
      UserError: for another name, or a number out of range.
    """
    if name not in ATTACKS:
        raise unknown("attack", name, ATTACKS)
    if steps < 1:
        raise UserError(f"an attack has at least 1 step, not {steps}")
    step_size = _WAY / steps if step_size is None else step_size
    if not 0 < step_size < np.inf:
        raise UserError(f"the size of a step must be above 0, not {step_size}")
    if name == "fgsm":
        return Attack(name, steps=1, step_size=1.0, random_start=False)
    return Attack(name, steps, step_size, random_start=True)


Attacker = Callable[[Variables, data.Batch, float, int], jax.Array]
"""`(variables, batch, epsilon, first) -> pixels`, see `make_attacker`."""


def make_attacker(
    logits: Callable[[Variables, jax.Array], jax.Array], attack: Attack, seed: int = 0
) -> Attacker:
    """Make the function that changes images so that a network's loss on their labels grows.

    Images are pixels in 0..1 here, and epsilon is in their unit; they are normalised afterwards.
    The compiled programs serve for every epsilon.

    Args:
      logits: function of variables and pixels, float32 [B, height, width, channels].
      attack: FGSM or PGD.
      seed: seed of random starts.

    Returns:
      A function of variables, a batch of `data.EvalBatches`, epsilon, and the number of the batch's
      first image, on which random starts depend. It returns pixels, float32 [B, height, width,
      channels], in 0..1 and in the cube about the images.
    """

    def loss(pixels: jax.Array, variables: Variables, batch: data.Batch) -> jax.Array:
        # An image's loss depends on that image alone, so that one sum does for all of them.
        return jnp.sum(score(logits(variables, pixels), batch)["loss"])

    def step(
        variables: Variables,
        batch: data.Batch,
        pixels: jax.Array,
        epsilon: jax.Array,
        size: jax.Array,
    ) -> jax.Array:
        moved = pixels + size * jnp.sign(jax.grad(loss)(pixels, variables, batch))
        return _within(moved, as_pixels(batch["image"]), epsilon)

    compiled_step = jax.jit(step, compiler_options=compiler_options())
    start = jax.jit(random_start if attack.random_start else lambda images, *_: as_pixels(images))

    def changed(variables: Variables, batch: data.Batch, epsilon: float, first: int) -> jax.Array:
        epsilon = np.float32(epsilon)
        size = np.float32(attack.step_size) * epsilon
        pixels = start(batch["image"], epsilon, np.int32(first), np.uint32(seed))
        # Each step is a program of its own: in loops the CPU's convolutions take many times as
        # long, and unrolled all of them would have to be compiled.
        for _ in range(attack.steps):
            pixels = compiled_step(variables, batch, pixels, epsilon, size)
        return pixels

    return changed


def random_start(
    images: jax.Array, epsilon: jax.Array, first: jax.Array, seed: jax.Array
) -> jax.Array:
    """Draw pixels in the cubes about images; `first` is the number of the first image."""

    def draw(number: jax.Array) -> jax.Array:
        # The generator is named, so that jax_default_prng_impl can't change the numbers.
        key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), number)
        return jax.random.uniform(key, images.shape[1:], minval=-1, maxval=1)

    pixels = as_pixels(images)
    draws = jax.vmap(draw)(first + jnp.arange(len(images)))
    return _within(pixels + epsilon * draws, pixels, epsilon)


def as_pixels(images: jax.Array) -> jax.Array:
    """Convert uint8 to float32 in 0..1."""
    return images.astype(jnp.float32) / 255


def _within(changed: jax.Array, pixels: jax.Array, epsilon: jax.Array) -> jax.Array:
    """Return the nearest pixels in the cube about an image and in 0..1."""
    return jnp.clip(jnp.clip(changed, pixels - epsilon, pixels + epsilon), 0, 1)


def measure(
    restored: Restored,
    batches: data.EvalBatches,
    attacks: Sequence[Attack],
    epsilons: Sequence[float],
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Evaluate a network on its evaluation split, unchanged and under attacks.

    Epsilons are above 0, in the unit of pixels in 0..1. Random starts depend on the seed and an
    image's number.

    Returns:
      A record for the unchanged images, whose attack is "none", and for each attack and epsilon:
      `attack`, `epsilon`, and the columns of `command.accuracy_columns`.
    """
    task, model, info = Classification(), restored.model, restored.info
    mean, std = (np.asarray(value, np.float32) for value in (info.mean, info.std))

    def normalise(batch: data.Batch, *, train: bool) -> jax.Array:
        del train
        return (batch["pixels"] - mean) / std

    def logits(variables: Variables, pixels: jax.Array) -> jax.Array:
        return model.apply(variables, (pixels - mean) / std, train=False)[0]

    of_pixels = make_eval_step(task, model, normalise)

    def record(attack: str, epsilon: float, step: Any) -> dict[str, Any]:
        metrics = evaluate(task, step, restored.variables, batches)
        return {"attack": attack, "epsilon": epsilon, **command.accuracy_columns(metrics)}

    def under(attacker: Attacker, epsilon: float) -> Any:
        first = itertools.count(step=batches.batch_size)

        def step(variables: Variables, batch: data.Batch) -> dict[str, jax.Array]:
            pixels = attacker(variables, batch, epsilon, next(first))
            return of_pixels(variables, {**batch, "pixels": pixels})

        return step

    unchanged = make_eval_step(task, model, data.make_preprocess(restored.config.data, info))
    found = [record(NO_ATTACK, 0.0, unchanged)]
    for attack in attacks:
        attacker = make_attacker(logits, attack, seed)
        found += [record(attack.name, epsilon, under(attacker, epsilon)) for epsilon in epsilons]
    return found


def draw(found: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw accuracies over epsilon: a colour for each network, a kind of line for each attack.

    The records come from `measure`, with the name of their `network`.
    """
    figure = Figure(figsize=(7, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    networks = dict.fromkeys(record["network"] for record in found)
    attacks = [name for name in dict.fromkeys(r["attack"] for r in found) if name != NO_ATTACK]
    for (number, network), (line, attack) in itertools.product(
        enumerate(networks), zip(("o-", "s--"), attacks, strict=False)
    ):
        own = [r for r in found if r["network"] == network and r["attack"] in (NO_ATTACK, attack)]
        x = [255 * r["epsilon"] for r in own]
        y, low, high = ([100 * r[name] for r in own] for name in ("accuracy", "low", "high"))
        style = {"color": f"C{number}"}
        axes.plot(x, y, line, **style, markersize=4, label=f"{network}, {attack.upper()}")
        axes.fill_between(x, low, high, **style, alpha=0.15, linewidth=0)
    axes.set(xlabel="epsilon, in 1/255", ylabel="accuracy, %", ylim=(-2, 102))
    axes.set_title("bands: 95 % confidence interval (Wilson)", fontsize=9)
    axes.grid(alpha=0.25)
    add_legend(axes)
    return figure


def parse_epsilons(texts: Sequence[str]) -> list[float]:
    """Return the ascending numbers of texts such as "8/255" and "0.03", without zero.

    Raises:
      UserError: for a text that is no number in 0..1.
    """
    epsilons = set()
    for text in texts:
        try:
            epsilon = float(Fraction(text))
        except (ValueError, ZeroDivisionError, OverflowError):
            raise UserError(f"epsilon {text!r} is no number such as 8/255 or 0.03") from None
        if not 0 <= epsilon <= 1:
            raise UserError(f"epsilon must be in 0..1, the range of pixels, not {text}")
        epsilons.add(epsilon)
    return sorted(epsilons - {0.0})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this analysis."""
    add = parser.add_argument
    text = f"attack, {' or '.join(ATTACKS)}; may be repeated; default {ATTACKS[0]}"
    add("--attack", action="append", help=text)
    text = f"largest changes of a pixel in 0..1; default {' '.join(EPSILONS)}"
    add("--epsilons", nargs="+", default=EPSILONS, help=text)
    add("--steps", type=int, help="steps of PGD; default 10")
    add(
        "--step_size",
        type=float,
        help="size of PGD's steps, in units of epsilon; default 2.5 / steps",
    )
    add("--start_seed", type=int, help="seed of PGD's random starts; default 0")
    add(
        "--against",
        nargs="+",
        default=(),
        metavar="WORKDIR",
        help="other runs to evaluate on the same images",
    )
    command.add_data_dir(parser)


def run(restored: Restored, given: argparse.Namespace, output: AnyPath) -> None:
    """Print, write and draw accuracies under attack."""
    attacks, epsilons = _attacks(given), parse_epsilons(given.epsilons)
    mesh = mesh_lib.make_mesh()
    networks = {given.workdir: restored}
    for workdir in given.against:
        other = restore_network(workdir, given.checkpoint, mesh_lib.replicated(mesh))
        other = other._replace(variables=other.variables_at(given.seed))
        networks[workdir] = other
    opened = {
        workdir: evaluation_batches(network, mesh, given.data_dir)
        for workdir, network in networks.items()
    }
    for workdir in given.against:
        command.check_same_images(workdir, opened[workdir].info, opened[given.workdir].info)
    found = []
    for workdir, network in networks.items():
        rows = measure(network, opened[workdir], attacks, epsilons, given.start_seed or 0)
        found += [{"network": workdir, "step": network.step, **row} for row in rows]
    title = f"accuracy on {restored.info.name} under attack"
    command.publish(output, title, list(map(_cells, found)), {"robustness": found}, draw(found))


def _attacks(given: argparse.Namespace) -> list[Attack]:
    names = tuple(dict.fromkeys(given.attack or ATTACKS[:1]))
    for flag in ("steps", "step_size", "start_seed"):
        if getattr(given, flag) is not None and "pgd" not in names:
            raise UserError(f"--{flag} is for --attack=pgd")
    if given.start_seed is not None and not 0 <= given.start_seed < 2**32:
        raise UserError(f"--start_seed must be between 0 and 2**32 - 1, not {given.start_seed}")
    steps = 10 if given.steps is None else given.steps
    return [make_attack(name, steps, given.step_size) for name in names]


def _cells(record: Mapping[str, Any]) -> dict[str, str]:
    """Return a row of the printed table."""
    return {
        "network": record["network"],
        "attack": record["attack"],
        "epsilon": f"{255 * record['epsilon']:g}/255",
        **command.accuracy_cells(record),
        "loss": f"{record['loss']:.4f}",
        "images": f"{record['examples']:,}",
    }
