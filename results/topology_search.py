"""Learn patterns of links, and train them beside others: python results/topology_search.py.

Searches one dense stage of 12 layers on 100 images of digits, with each penalty, for as many links
as the sparse pattern has. The learnt patterns, and the dense, sparse, shortest and random patterns,
are then trained from scratch with five seeds each. Runs go to runs/topology_search; finished ones
are not repeated. Writes results/topology_search.csv and .md, one row for each run and config;
results/topology_search_differences.csv and .md, differences from the pattern of L1; and
results/topology_search.json, the learnt weights.
"""

import json
import shlex
from pathlib import Path

import numpy as np

from aggnets_jax.connectivity.patterns import Link
from aggnets_jax.connectivity.topology import make_topology
from aggnets_jax.files import write_json
from aggnets_jax.main import main

DEPTH = 12
SEEDS = range(1, 6)  # 0 is that of the search
RUNS = Path("runs/topology_search")
OUTPUT = Path("results/topology_search")

RECIPE = (
    "--config=configs/recipes/digits.py",
    "--config.model.name=densenet",
    "--config.model.args.growth_rate=8",
    f"--config.model.args.stage_depths=({DEPTH},)",
    "--config.data.train_split=train_10_per_class",
    "--config.schedule_args.warmup_steps=20",
)
# A third of the search goes before the weights of links are learnt.
SEARCH_LENGTH, LENGTH = "--config.total_steps=400", "--config.total_steps=200"
SEARCHES = {
    "learnt_l1": ("--penalty=l1", "--strength=0.02"),
    "learnt_topk": ("--penalty=topk", "--strength=0.05"),
}


def shortest_links(number: int) -> list[Link]:
    """Return the shortest links of the dense pattern; of links of the same length, the first."""
    links = make_topology("dense", DEPTH).links
    return sorted(sorted(links, key=lambda link: link[0] - link[1])[:number])


def random_links(number: int, seed: int) -> list[Link]:
    """Return the link to the previous output of each layer, and random others."""
    links = make_topology("dense", DEPTH).links
    chain = [link for link in links if link[0] - link[1] == 1]
    others = [link for link in links if link not in chain]
    drawn = np.random.default_rng(seed).permutation(len(others))[: number - len(chain)]
    return sorted([*chain, *(others[i] for i in drawn)])


def do(*words: str) -> None:
    """Run a subcommand of `aggnets`."""
    print("$", shlex.join(["aggnets", *words]), flush=True)
    if code := main(words):
        raise SystemExit(code)


def main_program() -> None:
    """Search, train, compare."""
    number = len(make_topology("sparse", DEPTH).links)
    for name, flags in SEARCHES.items():
        if not (RUNS / name / "pattern.json").exists():
            where = (SEARCH_LENGTH, f"--workdir={RUNS / name}")
            do("learn", *RECIPE, *where, *flags, f"--keep={number}")
    patterns = {
        **{name: (f"--config={RUNS / name}/config.py",) for name in SEARCHES},
        **{name: (*RECIPE, f"--config.model.topology={name}") for name in ("dense", "sparse")},
    }
    drawn = {f"random{seed}": random_links(number, seed) for seed in (0, 1)}
    for name, links in {"shortest": shortest_links(number), **drawn}.items():
        edges = json.dumps([list(map(int, link)) for link in links])
        patterns[name] = (
            *RECIPE,
            "--config.model.topology=custom",
            f"--config.model.topology_args.edges={edges}",
        )
    workdirs = {name: [RUNS / f"{name}-{seed}" for seed in SEEDS] for name in patterns}
    for name, flags in patterns.items():
        for seed, workdir in zip(SEEDS, workdirs[name], strict=True):
            if not (workdir / "summary.json").exists():
                which = (LENGTH, f"--config.seed={seed}", f"--workdir={workdir}")
                do("train", *flags, *which)
    runs = {name: [str(workdir) for workdir in folders] for name, folders in workdirs.items()}
    do("results", *(run for group in runs.values() for run in group), f"--output={OUTPUT}")
    reference, *others = runs.values()
    do(
        "compare",
        *(run for group in others for run in group),
        "--against",
        *reference,
        f"--output={OUTPUT}_differences",
    )
    learnt = {name: json.loads((RUNS / name / "pattern.json").read_text()) for name in SEARCHES}
    write_json(OUTPUT.with_suffix(".json"), learnt)


if __name__ == "__main__":
    main_program()
