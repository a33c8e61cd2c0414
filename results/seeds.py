"""Time eight seeds that train in one program against eight runs: python results/seeds.py.

A step of eight seeds under `jax.vmap` (`config.num_seeds`) and a step of one seed alternate in one
process; the best of a few repeats counts. Writes results/seeds.csv: images/s of all eight seeds if
they train together, and if they train one after another.
"""

import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from aggnets_jax import config as config_lib
from aggnets_jax import data
from aggnets_jax.models import create_configured_model
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.tables import write_csv
from aggnets_jax.tasks.classification import Classification
from aggnets_jax.training.optimizer import make_optimizer
from aggnets_jax.training.state import create_state, seeds
from aggnets_jax.training.step import make_train_step, make_train_steps
from aggnets_jax.workdir.provenance import origin

SEEDS = 8
BATCH_SIZE = 64
ROWS = ("sparsenet", "densenet", "resnet", "hcgnet")
REPEATS = 5


def stepper(row: str, num_seeds: int) -> Callable[[], None]:
    """Return a function that makes a step of some seeds, and waits for it."""
    config = config_lib.load(
        f"configs/digits_50k.py:{row}", [f"num_seeds={num_seeds}", f"batch_size={BATCH_SIZE}"]
    )
    mesh = mesh_lib.make_mesh()
    info = data.describe(config.data)
    model = create_configured_model(config, info.num_classes)
    optimizer, _ = make_optimizer(config, 100, info.num_train / config.batch_size)
    training = data.train_data(
        config.data,
        batch_size=config.batch_size,
        seeds=seeds(config),
        sharding=mesh_lib.batch_sharding(mesh),
    )
    step = make_train_step(
        Classification(), model, optimizer, data.make_preprocess(config.data, info), config
    )
    steps = jax.jit(make_train_steps(step, training, num_seeds))
    state = jax.jit(
        lambda: create_state(model, optimizer, config, info.image_shape, Classification.sums)
    )()
    feed = training.feed(0)

    def run() -> None:
        jax.block_until_ready(steps(state, feed, np.int32(1)))

    run()  # compiles
    return run


def seconds(run: Callable[[], None]) -> float:
    """Return the seconds of one call."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def main() -> None:
    """Measure all networks and write the table."""
    made_with, rows = origin(), []
    for name in ROWS:
        runs = [stepper(name, num_seeds) for num_seeds in (SEEDS, 1)]
        together, alone = np.min([[seconds(run) for run in runs] for _ in range(REPEATS)], axis=0)
        images, in_turn = SEEDS * BATCH_SIZE, SEEDS * alone
        row = {
            "network": name,
            "together_images_per_second": f"{images / together:.0f}",
            "in_turn_images_per_second": f"{images / in_turn:.0f}",
            "ratio": f"{in_turn / together:.2f}",
            "seeds": SEEDS,
            "batch": BATCH_SIZE,
        }
        rows.append({**row, **made_with})
        write_csv(Path(__file__).with_suffix(".csv"), rows)
        print(*row.values(), flush=True)


if __name__ == "__main__":
    main()
