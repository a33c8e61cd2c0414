"""Compare networks over seeds: paired differences with confidence intervals."""

import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from aggnets_jax import config as config_lib
from aggnets_jax.data.catalog import is_of_folder
from aggnets_jax.errors import UserError, unknown
from aggnets_jax.files import any_path
from aggnets_jax.reports import transfer as transfer_results
from aggnets_jax.reports.results import (
    Result,
    check_one_task,
    groups,
    precisions,
    provenance,
    read_run,
)
from aggnets_jax.statistics import LEAST_RANKED, holm, mean_and_interval, paired_p_values
from aggnets_jax.tables import markdown, print_table
from aggnets_jax.workdir.folder import read_config, read_summary

MEASURES = ("error", "loss")
_P_VALUES = {"p_t": "p", "p_t_holm": "p (Holm)", "p_wilcoxon": "W", "p_wilcoxon_holm": "W (Holm)"}

_EXPLANATION = (
    "A difference is network minus reference for runs with the same seed{when}:"
    " {better}. Each interval is the"
    " 95 % confidence interval of the mean difference by Student's t distribution. p is the p-value"
    " of the two-sided paired t test, W the p-value of Wilcoxon's signed-rank test, which needs"
    " {least} pairs. p (Holm) and W (Holm) are corrected by Holm's method for the {comparisons} of"
    " each measure. There is no p-value where all differences are equal."
)

_LESS = "below zero, the network is better. Errors are top-1 errors in percent"
_MORE = "above zero, the network is better. AP is COCO's average precision in percent"

_PAGE = """# {name}

Made by `aggnets compare WORKDIR ... --against WORKDIR ... --output={output}`;
the reference is `{against}`. [{name}.csv]({name}.csv) has the same as plain
numbers.
"""


class Difference(NamedTuple):
    """Difference of a network from the reference in one measure, over the seeds of both.

    Attributes:
      group: results of the network, one for each seed, also those without a partner.
      measure: "error" in %, or "loss"; a classifier of transfer, whose error in % it is; for
        detectors "bbox_AP" or "segm_AP", in %.
      seeds: of the pairs.
      reference: mean of the reference over these seeds.
      mean: of the differences, network minus reference.
      half: half the width of the mean's 95 % confidence interval.
      p_t: of the paired t test, see `statistics.PValues`.
      p_t_holm: corrected for the comparisons of this measure.
      p_wilcoxon: of the signed-rank test, see `statistics.PValues`.
      p_wilcoxon_holm: corrected for the comparisons of this measure.
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
    """Results of a reference, one for each seed, and the networks' differences from it.

    There is a difference for each network, in the order of their first runs, and each measure.
    """

    reference: Sequence[Result]
    differences: Sequence[Difference]
    measures: Sequence[str] = MEASURES


def networks(
    workdirs: Iterable[str | Path], against: Iterable[str | Path] | None = None
) -> list[list[Result]]:
    """Return the results of a reference and of other networks, one for each seed.

    Arguments and errors are as for `compare`.
    """
    grouped = groups(result for workdir in workdirs for result in read_run(workdir))
    if against is None:
        return grouped
    reference, *others = groups(result for workdir in against for result in read_run(workdir))
    if others:
        raise UserError(
            f"--against has runs of several configs, such as {reference[0].workdir} and"
            f" {others[0][0].workdir}; give runs that differ only in the seed"
        )
    check_one_task([reference, *grouped])
    return [reference, *grouped]


def compare(
    workdirs: Iterable[str | Path],
    against: Iterable[str | Path] | None = None,
    may_differ: Sequence[str] = (),
    *,
    transfer: bool = False,
) -> Comparison:
    """Compare the networks of some runs with a reference.

    Args:
      workdirs: of finished runs of any number of networks.
      against: workdirs of the reference's runs; None: the network of the first workdir.
      may_differ: fields of the config, besides the network's, that may differ.
      transfer: whether to compare the errors of classifiers on the features, from the files of
        `aggnets analyse transfer`, instead of the networks' errors.

    Raises:
      UserError: if a workdir holds no finished run, or no such file; if the reference is not
        exactly one network, or is compared with itself; if a run differs from it in more than the
        network; or if there are fewer than two pairs of seeds.
    """
    reference, *grouped = networks(workdirs, against)
    if not grouped:
        raise UserError(f"all runs are of one network, {name_of(reference)}; give another, too")
    _check_fields([reference, *grouped], may_differ)
    measures = precisions([reference, *grouped]) or MEASURES
    if transfer:
        (reference, *grouped), measures = transfer_results.add_errors([reference, *grouped])
    by_measure = []
    for measure in measures:
        found = [_difference(group, reference, measure) for group in grouped]
        p_t = holm([each.p_t for each in found])
        p_wilcoxon = holm([each.p_wilcoxon for each in found])
        by_measure.append(
            each._replace(p_t_holm=t, p_wilcoxon_holm=w)
            for each, t, w in zip(found, p_t, p_wilcoxon, strict=True)
        )
    differences = [*itertools.chain(*zip(*by_measure, strict=True))]
    return Comparison(reference, differences, measures)


def _difference(group: Sequence[Result], reference: Sequence[Result], measure: str) -> Difference:
    """Return the difference of one network, without corrected p-values."""
    ours, theirs = (
        {result.record["seed"]: float(result.record[measure]) for result in results}
        for results in (group, reference)
    )
    seeds = tuple(sorted(ours.keys() & theirs.keys()))
    if len(seeds) < 2:
        have = [", ".join(map(str, sorted(values))) for values in (ours, theirs)]
        raise UserError(
            f"{name_of(group)} has the seeds {have[0]} and {name_of(reference)} has {have[1]}: a"
            " comparison needs two pairs; train both with two common seeds or more"
        )
    # Round off floating-point errors, which would make equal differences unequal.
    differences = np.round([ours[seed] - theirs[seed] for seed in seeds], 9)
    mean, _, half = mean_and_interval(differences.tolist())
    p_t, p_wilcoxon = paired_p_values(differences)
    expected = float(np.mean([theirs[seed] for seed in seeds]))
    return Difference(group, measure, seeds, expected, mean, half, p_t, None, p_wilcoxon, None)


def name_of(group: Sequence[Result]) -> str:
    """Return a network's name: its workdir, or its workdirs without the numbers at their ends."""
    workdirs = list(dict.fromkeys(result.workdir.rstrip("/") for result in group))
    if len(workdirs) == 1:
        return workdirs[0]
    names = {re.sub(r"[-_.]?\d+$", "", workdir) for workdir in workdirs}
    return names.pop() if len(names) == 1 else f"{workdirs[0]}, ..."


def _check_fields(grouped: Sequence[Sequence[Result]], may_differ: Sequence[str]) -> None:
    """Raise `UserError` if a network is the first one, or differs from it in other fields, too."""
    reference, *others = grouped
    found: set[str] = set()
    refused: list[str] = []
    for group in others:
        fields = changes(reference, group)
        if not fields:
            raise UserError(
                f"{name_of(group)} and {name_of(reference)} are runs of the same config; a network"
                " is compared with another one"
            )
        differing = [field for field in fields if not field.startswith("model.")]
        found.update(differing)
        if more := [field for field in differing if field not in may_differ]:
            details = "; ".join(f"{field}: {fields[field]}" for field in more)
            refused.append(
                f"{name_of(group)} differs from {name_of(reference)} in more than the network"
                f" ({details}); if that is on purpose, name what may:"
                f" {' '.join(f'--may_differ={field}' for field in more)}"
            )
    for field in may_differ:
        if field not in found:
            raise unknown("field that differs", field, found)
    if refused:
        raise UserError(refused[0])


def changes(reference: Sequence[Result], group: Sequence[Result]) -> dict[str, str]:
    """Return how each field differs between runs or changed during a run; seeds are ignored."""
    folders = [any_path(results[0].workdir) for results in (reference, group)]
    theirs, ours = (config_lib.to_json(read_config(folder)) for folder in folders)
    found = {
        field: "other links" if field == "model.patterns" else f"{was!r} and {now!r}"
        for field, (was, now) in config_lib.changes(theirs, ours).items()
        if field not in ("seed", "num_seeds")
    }
    was, now = theirs["data"]["data_dir"], ours["data"]["data_dir"]
    if is_of_folder(ours["data"]["name"]) and was != now:
        found["data.data_dir"] = f"{was!r} and {now!r}"
    for folder in folders:
        for change in read_summary(folder)["config_changes"]:
            for text in change["changes"]:
                field, _, values = text.partition(": ")
                found[field] = f"{values} after step {change['step']} of {folder}"
    return found


def records(comparison: Comparison) -> list[dict[str, object]]:
    """Return the lines of the CSV file, one for each difference."""
    against = name_of(comparison.reference)
    return [
        {"network": name_of(difference.group), "against": against, **_record(difference)}
        for difference in comparison.differences
    ]


def _record(difference: Difference) -> dict[str, object]:
    first = difference.group[0].record
    numbers = {
        "reference_mean": difference.reference,
        "difference": difference.mean,
        "interval_low": difference.mean - difference.half,
        "interval_high": difference.mean + difference.half,
        **{name: getattr(difference, name) for name in _P_VALUES},
    }
    return {
        **{name: first[name] for name in ("config", "overrides", "params")},
        "measure": difference.measure,
        "pairs": len(difference.seeds),
        "seeds": " ".join(map(str, difference.seeds)),
        **{name: "" if value is None else f"{value:.6g}" for name, value in numbers.items()},
    }


def page(comparison: Comparison, output: Path) -> str:
    """Return the Markdown page: a row for each network and measure, commands, hardware."""
    reference, differences, _ = comparison
    compared = [result for difference in differences for result in difference.group]
    lines = [
        _PAGE.format(name=output.name, output=output, against=name_of(reference)),
        _explanation(comparison) + "\n",
        markdown(list(map(_cells, differences))),
        *(f"\n{text}" for text in _left_out(comparison)),
        *provenance([*reference, *compared]),
    ]
    return "\n".join(lines) + "\n"


def show(comparison: Comparison) -> None:
    """Print the comparison for people, without the columns of tests that need more pairs."""
    rows = list(map(_cells, comparison.differences))
    columns = [column for column in rows[0] if any(row[column] for row in rows)]
    print_table(
        [{column: row[column].strip("`") for column in columns} for row in rows],
        f"against {name_of(comparison.reference)}",
        left=("network", "measure"),
    )
    print("\n".join([*_left_out(comparison), _explanation(comparison)]))


def _explanation(comparison: Comparison) -> str:
    count = len(comparison.differences) // len(comparison.measures)
    comparisons = "one comparison" if count == 1 else f"{count} comparisons"
    detectors = bool(precisions([comparison.reference]))
    last = ", after the last step" if detectors or comparison.measures == MEASURES else ""
    better = _MORE if detectors else _LESS
    return _EXPLANATION.format(
        when=last, better=better, least=LEAST_RANKED, comparisons=comparisons
    )


def _cells(difference: Difference) -> dict[str, str]:
    # One image in a thousand is 0.1 %, and losses of networks that fit are small.
    digits = 4 if difference.measure == "loss" else 2
    low, high = difference.mean - difference.half, difference.mean + difference.half
    p_values = {title: getattr(difference, name) for name, title in _P_VALUES.items()}
    return {
        "network": f"`{name_of(difference.group)}`",
        "parameters": f"{difference.group[0].record['params']:,}",
        "measure": difference.measure,
        "n": str(len(difference.seeds)),
        "reference": f"{difference.reference:.{digits}f}",
        "difference": f"{difference.mean:+.{digits}f}",
        "95 % interval": f"{low:+.{digits}f} to {high:+.{digits}f}",
        **{name: "" if p is None else f"{p:.2g}" for name, p in p_values.items()},
    }


def _left_out(comparison: Comparison) -> list[str]:
    """Return a line for the runs of each network that have no partner."""
    lines, reference = [], comparison.reference
    for difference in comparison.differences[:: len(comparison.measures)]:
        for group, other in ((difference.group, reference), (reference, difference.group)):
            seeds = sorted({result.record["seed"] for result in group} - {*difference.seeds})
            alone = f"{name_of(group)} with the seeds {', '.join(map(str, seeds))}"
            if seeds:
                lines.append(f"Without a partner in {name_of(other)}, and left out: {alone}")
    return lines
