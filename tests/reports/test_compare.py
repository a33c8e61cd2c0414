"""Comparisons over seeds: against SciPy directly, signs, corrections, and what is refused."""

import csv

import numpy as np
import pytest
from scipy import stats

from aggnets_jax.main import main
from aggnets_jax.reports import compare, experiments
from tests.marks import mostly_slow
from tests.reports.test_results import write_run

DENSE = ("model.topology=dense",)
WINDOWED = ("model.topology=windowed",)


def write(folder, accuracies, overrides=(), losses=None, first_seed=0):
    """A workdir for each seed: FOLDER-0, FOLDER-1, ..."""
    losses = [0.1] * len(accuracies) if losses is None else losses
    workdirs = []
    for seed, (accuracy, loss) in enumerate(zip(accuracies, losses, strict=True), first_seed):

        def with_loss(summary, loss=loss):
            for each in summary["seeds"]:
                each["final"]["loss"] = loss
            return summary

        workdirs.append(
            write_run(
                folder.with_name(f"{folder.name}-{seed}"),
                [accuracy],
                [*overrides, f"seed={seed}"],
                change=with_loss,
            )
        )
    return workdirs


def drawn(count, seed):
    """Accuracies and losses as of a test set of 10,000 images."""
    random = np.random.default_rng(seed)
    return (random.integers(6000, 9000, count) / 1e4).tolist(), random.normal(1, 0.2, count).round(
        5
    ).tolist()


@mostly_slow("pairs", [2, 5, 6, 9], quick=(0, 2))
def test_numbers_are_those_of_scipy(pairs, tmp_path):
    (ours, our_losses), (theirs, their_losses) = drawn(pairs, 1), drawn(pairs, 2)
    found = compare.compare(
        write(tmp_path / "dense", ours, DENSE, our_losses),
        # In another order: it is the seeds that pair them.
        write(tmp_path / "sparse", theirs, losses=their_losses)[::-1],
    ).differences
    assert [each.measure for each in found] == ["error", "loss"]
    errors = (100 - 100 * np.array(ours), 100 - 100 * np.array(theirs))
    for each, (ours, theirs) in zip(found, [errors, (our_losses, their_losses)], strict=True):
        ours, theirs = np.array(ours), np.array(theirs)
        test = stats.ttest_rel(ours, theirs)
        low, high = test.confidence_interval(0.95)
        assert each.seeds == tuple(range(pairs))
        assert each.reference == pytest.approx(theirs.mean())
        assert each.mean == pytest.approx(ours.mean() - theirs.mean())
        np.testing.assert_allclose([each.mean - each.half, each.mean + each.half], [low, high])
        assert each.p_t == pytest.approx(test.pvalue)
        assert each.p_t_holm == each.p_t  # one comparison
        if pairs < 6:
            assert each.p_wilcoxon is None
        else:
            assert each.p_wilcoxon == pytest.approx(stats.wilcoxon(ours, theirs).pvalue)


def test_below_zero_the_network_is_better_than_the_reference(tmp_path):
    better = write(tmp_path / "better", [0.9, 0.91], DENSE, [0.1, 0.2])
    worse = write(tmp_path / "worse", [0.8, 0.79], losses=[0.3, 0.5])
    error, loss = compare.compare(better, worse).differences
    assert (error.mean, loss.mean) == (pytest.approx(-11), pytest.approx(-0.25))
    error, loss = compare.compare(worse, better).differences
    assert (error.mean, loss.mean) == (pytest.approx(11), pytest.approx(0.25))
    assert error.reference == pytest.approx(9.5)


def test_pairs_tell_what_means_would_not(tmp_path):
    """Seeds differ by much, and the networks by little for each."""
    seeds = np.array([0.5, 0.6, 0.7, 0.8])
    gains = np.array([0.010, 0.012, 0.009, 0.011])
    found = compare.compare(
        write(tmp_path / "dense", (seeds + gains).round(4).tolist(), DENSE),
        write(tmp_path / "sparse", seeds.tolist()),
    ).differences[0]
    assert found.mean + found.half < 0
    assert found.p_t < 0.001
    assert stats.ttest_ind(seeds + gains, seeds).pvalue > 0.5


def test_differences_that_are_alike_have_no_p(tmp_path):
    seeds = [0.5, 0.6, 0.7, 0.8, 0.65, 0.75]
    by_one = [round(seed - 0.1, 4) for seed in seeds]
    found = compare.compare(
        [*write(tmp_path / "same", seeds, DENSE), *write(tmp_path / "shifted", by_one, WINDOWED)],
        write(tmp_path / "sparse", seeds),
    ).differences
    same, shifted = found[0], found[2]
    assert (same.mean, same.half, same.p_t, same.p_wilcoxon) == (0, 0, None, None)
    assert (shifted.mean, shifted.half, shifted.p_t) == (pytest.approx(10), 0, None)
    assert shifted.p_wilcoxon == pytest.approx(2 / 2**6)


def test_seeds_without_a_partner_are_left_out(tmp_path, capsys):
    ours = write(tmp_path / "dense", [0.9, 0.8, 0.1], DENSE, first_seed=1)
    # Seeds that trained together are of one workdir.
    theirs = write_run(tmp_path / "sparse", [0.2, 0.7, 0.7])
    assert main(["compare", *ours, "--against", theirs]) == 0
    printed = capsys.readouterr().out
    assert f"left out: {tmp_path}/dense with the seeds 3\n" in printed
    assert f"left out: {tmp_path}/sparse with the seeds 0\n" in printed
    error = compare.compare(ours, [theirs]).differences[0]
    assert error.seeds == (1, 2)
    assert error.mean == pytest.approx((10 - 30 + 20 - 30) / 2)


def test_table_and_page(tmp_path, capsys):
    accuracies, losses = drawn(6, 3)
    reference = write(tmp_path / "sparse", accuracies, losses=losses)
    dense = write(tmp_path / "dense", drawn(6, 4)[0], DENSE, drawn(6, 4)[1])
    windowed = write(tmp_path / "windowed", drawn(6, 5)[0], WINDOWED, drawn(6, 5)[1])
    output = tmp_path / "out" / "patterns"
    arguments = [*dense, *windowed, "--against", *reference, f"--output={output}"]
    assert main(["compare", *arguments]) == 0
    assert f"{output}.csv, {output}.md" in capsys.readouterr().out
    comparison = compare.compare([*dense, *windowed], reference)
    with output.with_suffix(".csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["network"], row["measure"]) for row in rows] == [
        (str(tmp_path / name), measure)
        for name in ("dense", "windowed")
        for measure in ("error", "loss")
    ]
    for row, each in zip(rows, comparison.differences, strict=True):
        assert row["overrides"] == f"--config.{each.group[0].record['overrides'][9:]}"
        assert (row["against"], row["pairs"], row["seeds"]) == (
            str(tmp_path / "sparse"),
            "6",
            "0 1 2 3 4 5",
        )
        for column, value in [
            ("difference", each.mean),
            ("interval_low", each.mean - each.half),
            ("interval_high", each.mean + each.half),
            ("p_t", each.p_t),
            ("p_t_holm", each.p_t_holm),
            ("p_wilcoxon", each.p_wilcoxon),
            ("p_wilcoxon_holm", each.p_wilcoxon_holm),
        ]:
            assert float(row[column]) == pytest.approx(value, rel=1e-5)
    page = output.with_suffix(".md").read_text()
    assert "by Holm's method for the 2 comparisons of each measure" in page
    assert page.count("\n| `") == 4
    assert page.count("    aggnets train --config=") == 18
    assert "* commit: abc123+\n" in page
    # It is no table of runs.
    assert experiments.measured_errors(output.parent) == {}


def test_correction_is_over_the_networks_of_a_measure(tmp_path):
    reference = write(tmp_path / "sparse", drawn(4, 6)[0], losses=drawn(4, 6)[1])
    dense = write(tmp_path / "dense", drawn(4, 7)[0], DENSE, drawn(4, 7)[1])
    windowed = write(tmp_path / "windowed", drawn(4, 8)[0], WINDOWED, drawn(4, 8)[1])
    both = compare.compare([*dense, *windowed], reference).differences
    for number, workdirs in enumerate((dense, windowed)):
        alone = compare.compare(workdirs, reference).differences
        assert [each.p_t for each in alone] == [
            each.p_t for each in both[2 * number : 2 * number + 2]
        ]
    for measure in (0, 1):
        p = [each.p_t for each in both[measure::2]]
        assert [each.p_t_holm for each in both[measure::2]] == compare.holm(p)


def refusal(capsys, *arguments):
    """Return the message of a command that is refused."""
    assert main(["compare", *map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_less_than_two_pairs_are_refused(tmp_path, capsys):
    ours = write(tmp_path / "dense", [0.9, 0.8, 0.7], DENSE)
    theirs = write(tmp_path / "sparse", [0.9, 0.8], first_seed=2)
    error = refusal(capsys, *ours, "--against", *theirs)
    assert f"{tmp_path}/dense has the seeds 0, 1, 2 and {tmp_path}/sparse has 2, 3: a comp" in error
    assert "needs two pairs" in refusal(capsys, ours[0], "--against", theirs[0])


def test_more_than_the_network_may_differ_only_on_purpose(tmp_path, capsys):
    theirs = write(tmp_path / "sparse", [0.9, 0.8])
    recipe = ("lr=0.25", "data.flip=False")
    ours = write(tmp_path / "dense", [0.7, 0.8], (*DENSE, *recipe))
    error = refusal(capsys, *ours, "--against", *theirs, f"--output={tmp_path}/table")
    assert "in more than the network (data.flip: True and False; lr: 0.1 and 0.25)" in error
    assert "--may_differ=data.flip --may_differ=lr" in error
    assert "(data.flip: True" in refusal(capsys, *ours, "--against", *theirs, "--may_differ=lr")
    assert not (tmp_path / "table.csv").exists()
    both = ["data.flip", "lr"]
    assert compare.compare(ours, theirs, both).differences[0].mean == pytest.approx(10)
    error = refusal(capsys, *ours, "--against", *theirs, "--may_differ=lrr", "--may_differ=lr")
    assert "unknown field that differs 'lrr'; nearest: lr" in error


def test_another_folder_that_is_a_data_set_is_a_difference(tmp_path, capsys):
    def folder(name):
        return ["data.name=npz", f"data.data_dir={name}"]

    here = write(tmp_path / "here", [0.75, 0.74], folder("a.npz"))
    there = write(tmp_path / "there", [0.7, 0.71], [*DENSE, *folder("b.npz")])
    assert main(["compare", *there, "--against", *here]) == 2
    assert "(data.data_dir: 'a.npz' and 'b.npz')" in capsys.readouterr().err
    assert main(["compare", *there, "--against", *here, "--may_differ=data.data_dir"]) == 0


def test_a_config_that_changed_on_the_way_is_a_difference(tmp_path, capsys):
    changes = [{"step": 5, "changes": ["lr: 0.1 -> 0.2"]}]

    def changed(summary):
        return {**summary, "config_changes": changes}

    theirs = write_run(tmp_path / "sparse", [0.9, 0.8])
    ours = write_run(tmp_path / "dense", [0.8, 0.8], DENSE, change=changed)
    error = refusal(capsys, ours, "--against", theirs)
    assert "(lr: 0.1 -> 0.2 after step 5 of" in error
    assert len(compare.compare([ours], [theirs], ["lr"]).differences) == 2


def test_the_reference_is_one_network_and_no_other_is_it(tmp_path, capsys):
    sparse = write(tmp_path / "sparse", [0.9, 0.8])
    dense = write(tmp_path / "dense", [0.9, 0.7], DENSE)
    error = refusal(capsys, *sparse, "--against", *dense, *sparse)
    assert f"such as {dense[0]} and {sparse[0]}" in error
    error = refusal(capsys, *dense, *sparse, "--against", *sparse)
    assert f"{tmp_path}/sparse and {tmp_path}/sparse are runs of the same config" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN"], "all runs are of one network"),
        (["--against", "RUN"], "required: WORKDIR"),
        (["RUN", "--against", "RUN", "--output=results/a.md"], "give it without .md"),
        (["NONE", "--against", "RUN"], "NONE does not exist"),
        (["RUN", "RUN", "--against", "RUN"], "same config and seed 0"),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path, capsys):
    workdir = write_run(tmp_path / "run", [0.5])
    error = refusal(capsys, *(a.replace("RUN", workdir) for a in arguments))
    assert message in error


def test_names_of_networks():
    def name(*workdirs):
        return compare.name_of([compare.Result(workdir, "", {}) for workdir in workdirs])

    assert name("runs/densenet121") == "runs/densenet121"
    assert name("runs/a-10", "runs/a-11/") == "runs/a"
    assert name("runs/a_b1", "runs/a_b2", "runs/a_b1") == "runs/a_b"
    assert name("runs/a-1", "runs/b-1") == "runs/a-1, ..."
