"""Compare networks over seeds: paired differences with confidence intervals."""

import csv
import io
import itertools
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from aggnets_jax import config as config_lib
from aggnets_jax.errors import UserError, unknown
from aggnets_jax.files import local_path, read_json
from aggnets_jax.reports.results import (
    Result,
    groups,
    provenance,
    read_run,
)
from aggnets_jax.statistics import holm, mean_and_interval
from aggnets_jax.workdir.folder import CONFIG, read_summary

MEASURES = ("error", "loss")

# With fewer pairs no outcome of the signed-rank test has a p-value below 0.05: 2 / 2**5 > 0.05.
LEAST_RANKED = 6

_STATED = (
    "A difference is that of the network minus that of the reference with the same seed, after the"
    " last step: below zero the network is better. Errors are top-1 errors in percent. The interval"
    " is the 95 % confidence interval of the mean difference by Student's t distribution, each for"
    " itself; p is that of the two-sided paired t test, W that of Wilcoxon's signed-rank test, from"
    " {least} pairs on. p (Holm) and W (Holm) are corrected by Holm's method for the"
    " {comparisons} of each measure. There is no p where all differences are alike."
)

_PAGE = """# {name}

Made by `aggnets compare WORKDIR ... --against WORKDIR ... --output={output}`;
the reference, that behind --against, is `{against}`. [{name}.csv]({name}.csv) has the same as plain
numbers.

{stated}

"""

_COLUMNS = (
    "network",
    "parameters",
    "measure",
    "n",
    "reference",
    "difference",
    "95 % interval",
    "p",
    "p (Holm)",
    "W",
    "W (Holm)",
)


class Difference(NamedTuple):
    """Of a network from the reference, in one measure, over the seeds that both have.

    Attributes:
      group: results of the network, one for each seed; whether or not they have a partner.
      measure: "error" in %, or "loss".
      seeds: of the pairs.
      reference: mean of the reference over these seeds.
      mean: of the differences, network minus reference.
      half: half the width of the mean's 95 % confidence interval.
      p_t: of the paired t test, two-sided; None if all differences are alike.
      p_t_holm: corrected for the comparisons of this measure.
      p_wilcoxon: of the signed-rank test, two-sided; None for less than `LEAST_RANKED` pairs, and
        if all differences are zero.
      p_wilcoxon_holm: corrected as well.
    """

    group: Sequence[Result]
    measure: str
    seeds: tuple[int, ...]
    reference: float
    mean: float
    half: float
    p_t: float | None
    p_t_holm: float | None
    p_wilcoxon: float | None
    p_wilcoxon_holm: float | None


class Comparison(NamedTuple):
    """Of some networks with one.

    Attributes:
      reference: results of the network with which they are compared, one for each seed.
      differences: for each network, in the order of their first runs, that in each of `MEASURES`.
    """

    reference: Sequence[Result]
    differences: Sequence[Difference]


def compare(
    workdirs: Iterable[str | Path],
    against: Iterable[str | Path],
    may_differ: Sequence[str] = (),
) -> Comparison:
    """Compares the networks of some runs with that of others.

    Args:
      workdirs: of finished runs of any number of networks.
      against: of those of the reference.
      may_differ: fields of the config, besides those of the network, that differ on purpose.

    Raises:
      UserError: if a workdir holds no finished run; if the reference is none or several networks,
        or one that is compared with it; if a run differs from it in more than the network; or if
        less than two seeds are a pair.
    """
    reference, *others = groups(result for workdir in against for result in read_run(workdir))
    if others:
        raise UserError(
            f"--against has runs of several configs, such as {reference[0].workdir} and"
            f" {others[0][0].workdir}; give those of one, that differ in the seed alone"
        )
    grouped = groups(result for workdir in workdirs for result in read_run(workdir))
    _check_fields([reference, *grouped], may_differ)
    by_measure = []
    for measure in MEASURES:
        found = [_difference(group, reference, measure) for group in grouped]
        p_t = holm([each.p_t for each in found])
        p_wilcoxon = holm([each.p_wilcoxon for each in found])
        by_measure.append(
            each._replace(p_t_holm=t, p_wilcoxon_holm=w)
            for each, t, w in zip(found, p_t, p_wilcoxon, strict=True)
        )
    return Comparison(reference, [*itertools.chain(*zip(*by_measure, strict=True))])


def _difference(group: Sequence[Result], reference: Sequence[Result], measure: str) -> Difference:
    """Of one network, whose p-values are not corrected yet."""
    from scipy import stats  # takes half a second to import

    ours, theirs = (
        {result.record["seed"]: float(result.record[measure]) for result in results}
        for results in (group, reference)
    )
    seeds = tuple(sorted(ours.keys() & theirs.keys()))
    if len(seeds) < 2:
        have = [", ".join(map(str, sorted(values))) for values in (ours, theirs)]
        raise UserError(
            f"{name_of(group)} has the seeds {have[0]} and {name_of(reference)} has {have[1]}: less"
            " than two pairs are no comparison; train both with the same two seeds or more"
        )
    # Their digits end long before; what follows is rounding, which would tell equals apart.
    differences = np.round([ours[seed] - theirs[seed] for seed in seeds], 9)
    mean, _, half = mean_and_interval(differences.tolist())
    p_t = p_wilcoxon = None
    if np.ptp(differences) > 0:
        p_t = float(stats.ttest_1samp(differences, 0).pvalue)
    if len(seeds) >= LEAST_RANKED and np.any(differences):
        p_wilcoxon = float(stats.wilcoxon(differences).pvalue)
    expected = float(np.mean([theirs[seed] for seed in seeds]))
    return Difference(group, measure, seeds, expected, mean, half, p_t, None, p_wilcoxon, None)


def name_of(group: Sequence[Result]) -> str:
    """What to call a network: its workdir, or several without the numbers at their ends."""
    workdirs = list(dict.fromkeys(result.workdir.rstrip("/") for result in group))
    if len(workdirs) == 1:
        return workdirs[0]
    names = {re.sub(r"[-_.]?\d+$", "", workdir) for workdir in workdirs}
    return names.pop() if len(names) == 1 else f"{workdirs[0]}, ..."


def _check_fields(grouped: Sequence[Sequence[Result]], may_differ: Sequence[str]) -> None:
    """Refuses networks that are the reference, the first, or differ in more than the network."""
    reference, *others = grouped
    found: set[str] = set()
    refused: list[str] = []
    for group in others:
        changes = _changes(reference, group)
        if not changes:
            raise UserError(
                f"{name_of(group)} and {name_of(reference)} are runs of the same config; a network"
                " is compared with another one"
            )
        differing = [field for field in changes if not field.startswith("model.")]
        found.update(differing)
        if more := [field for field in differing if field not in may_differ]:
            told = "; ".join(f"{field}: {changes[field]}" for field in more)
            refused.append(
                f"{name_of(group)} differs from {name_of(reference)} in more than the network"
                f" ({told}); if that is on purpose, name what may:"
                f" {' '.join(f'--may_differ={field}' for field in more)}"
            )
    for field in may_differ:
        if field not in found:
            raise unknown("field that differs", field, found)
    if refused:
        raise UserError(refused[0])


def _changes(reference: Sequence[Result], group: Sequence[Result]) -> dict[str, str]:
    """Fields in which runs differ, but for the seeds, or that changed on the way; and how."""
    folders = [local_path(results[0].workdir) for results in (reference, group)]
    theirs, ours = (
        config_lib.to_json(config_lib.resolve(read_json(folder / CONFIG))) for folder in folders
    )
    changes = {
        field: f"{was!r} and {now!r}"
        for field, (was, now) in config_lib.changes(theirs, ours).items()
        if field not in ("seed", "num_seeds")
    }
    for folder in folders:
        for change in read_summary(folder)["config_changes"]:
            for text in change["changes"]:
                field, _, values = text.partition(": ")
                changes[field] = f"{values} after step {change['step']} of {folder}"
    return changes


def table(comparison: Comparison) -> str:
    """The CSV file."""
    text = io.StringIO()
    rows = [_record(each, comparison.reference) for each in comparison.differences]
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _record(difference: Difference, reference: Sequence[Result]) -> dict[str, object]:
    first = difference.group[0].record
    numbers = {
        "reference_mean": difference.reference,
        "difference": difference.mean,
        "interval_low": difference.mean - difference.half,
        "interval_high": difference.mean + difference.half,
        "p_t": difference.p_t,
        "p_t_holm": difference.p_t_holm,
        "p_wilcoxon": difference.p_wilcoxon,
        "p_wilcoxon_holm": difference.p_wilcoxon_holm,
    }
    return {
        "network": name_of(difference.group),
        "against": name_of(reference),
        "config": first["config"],
        "overrides": first["overrides"],
        "params": first["params"],
        "measure": difference.measure,
        "pairs": len(difference.seeds),
        "seeds": " ".join(map(str, difference.seeds)),
        **{name: "" if value is None else f"{value:.6g}" for name, value in numbers.items()},
    }


def page(comparison: Comparison, output: Path) -> str:
    """The page: a row for each network and measure, the commands, and what they ran on."""
    reference, differences = comparison
    lines = [f"| {' | '.join(_COLUMNS)} |", f"|{'---|' * len(_COLUMNS)}"]
    lines += [f"| {' | '.join(_cells(difference))} |" for difference in differences]
    lines += [f"\n{text}" for text in _left_out(comparison)]
    compared = [result for difference in differences for result in difference.group]
    lines += provenance([*reference, *compared])
    about = {"name": output.name, "output": output, "against": name_of(reference)}
    return _PAGE.format(**about, stated=_stated(comparison)) + "\n".join(lines) + "\n"


def _stated(comparison: Comparison) -> str:
    """What the numbers are."""
    count = len(comparison.differences) // len(MEASURES)
    comparisons = "one comparison" if count == 1 else f"{count} comparisons"
    return _STATED.format(least=LEAST_RANKED, comparisons=comparisons)


def _cells(difference: Difference) -> list[str]:
    # One image in a thousand is 0.1 %, and losses of networks that fit are small.
    digits = 2 if difference.measure == "error" else 4
    low, high = difference.mean - difference.half, difference.mean + difference.half
    return [
        f"`{name_of(difference.group)}`",
        f"{difference.group[0].record['params']:,}",
        difference.measure,
        str(len(difference.seeds)),
        f"{difference.reference:.{digits}f}",
        f"{difference.mean:+.{digits}f}",
        f"{low:+.{digits}f} to {high:+.{digits}f}",
        *(
            "" if p is None else f"{p:.2g}"
            for p in (
                difference.p_t,
                difference.p_t_holm,
                difference.p_wilcoxon,
                difference.p_wilcoxon_holm,
            )
        ),
    ]


def _left_out(comparison: Comparison) -> list[str]:
    """Says which runs have no partner."""
    lines = []
    reference = comparison.reference
    for difference in comparison.differences[:: len(MEASURES)]:
        for group, other in ((difference.group, reference), (reference, difference.group)):
            seeds = sorted({result.record["seed"] for result in group} - {*difference.seeds})
            if seeds:
                lines.append(
                    f"Without a partner in {name_of(other)}, and left out: {name_of(group)} with"
                    f" the seeds {', '.join(map(str, seeds))}"
                )
    return lines


def _printed(comparison: Comparison) -> Table:
    """The table for people; tests that need more pairs have no columns."""
    rows = [_cells(difference) for difference in comparison.differences]
    columns = [i for i in range(len(_COLUMNS)) if any(row[i] for row in rows)]
    printed = Table(title=escape(f"against {name_of(comparison.reference)}"))
    for i in columns:
        left = _COLUMNS[i] in ("network", "measure")
        justify, overflow = ("left", "fold") if left else ("right", "ellipsis")
        printed.add_column(_COLUMNS[i], justify=justify, overflow=overflow)
    for row in rows:
        printed.add_row(*(escape(row[i].strip("`")) for i in columns))
    return printed


def show(comparison: Comparison) -> None:
    """Print the comparison for people."""
    # A file or a pipe has no width to fit into.
    Console(width=None if sys.stdout.isatty() else 1000).print(_printed(comparison))
    print("\n".join([*_left_out(comparison), _stated(comparison)]))
