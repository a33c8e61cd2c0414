"""Weights of links: against the rows of kernels that are known to be theirs."""

import csv
import itertools
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from aggnets_jax.analysis import weights
from aggnets_jax.analysis.readers import weight_by_channel
from aggnets_jax.analysis.weights import heat_maps, link_weights, normalised
from aggnets_jax.errors import UserError
from aggnets_jax.main import main
from tests.analysis.networks import restored


def kernel_of(network, path):
    params = network.variables["params"]
    for name in path.split("/"):
        params = params[name]
    return np.asarray(params["kernel"], np.float64)


def by_source(kernel, widths):
    """Return the mean |w| of each source's rows, in the order of their concatenation."""
    ends = np.cumsum([0, *widths])
    assert ends[-1] == kernel.shape[-2]
    return [np.abs(kernel[..., a:b, :]).mean() for a, b in itertools.pairwise(ends)]


@pytest.mark.parametrize(
    ("topology", "layers"), [pytest.param("dense", 3, marks=pytest.mark.slow), ("sparse", 3)]
)
def test_weights_are_those_of_the_rows_of_each_source(data_dir, topology, layers):
    depth = 3 * layers + 4
    network = restored(data_dir, "sparsenet", depth=depth, growth_rate=4, topology=topology)
    found = link_weights(network)
    assert list(found) == ["stage1", "stage2", "stage3"]
    width = 8  # of y_0
    for number, reader in enumerate(["transition1/conv", "transition2/conv", "classifier"], 1):
        stage = found[f"stage{number}"]
        expected = np.full([layers + 2, layers + 1], np.nan)
        for layer in range(1, layers + 2):
            # Oldest first, or newest first.
            sources = [*range(layer)]
            if topology == "sparse":
                sources = [layer - offset for offset in (1, 2, 4) if offset <= layer]
            path = reader if layer > layers else f"stage{number}/layer{layer}/conv1"
            kernel = kernel_of(network, path)
            widths = [4 if source else width for source in sources]
            expected[layer, sources] = by_source(kernel, widths)
            assert stage.readers[layer, sources[-1]].path == tuple(path.split("/"))
        width = kernel.shape[-1]
        np.testing.assert_allclose(stage.means, expected, rtol=1e-12)


def test_each_layer_is_divided_by_its_largest():
    nan = np.nan
    means = np.array([[nan, nan, nan], [3.0, nan, nan], [1.0, 4.0, nan], [0.0, nan, 0.0]])
    expected = [[nan, nan, nan], [1, nan, nan], [0.25, 1, nan], [0, nan, 0]]
    np.testing.assert_array_equal(normalised(means), expected)


def test_a_head_that_flattens_and_dead_units_hide_no_reader(data_dir):
    network = restored(data_dir, "sparsenet", depth=10, growth_rate=4, pool="flatten")
    params = jax.tree.map(np.zeros_like, network.variables["params"])
    params["classifier"] = network.variables["params"]["classifier"]
    dead = network._replace(variables={**network.variables, "params": params})
    stage = link_weights(dead)["stage3"]
    assert [*stage.readers] == [(1, 0), (2, 1), (2, 0), (3, 2), (3, 1)]
    # Channel first: of the 2x2 last maps one pixel is left of each channel, 4 of each layer.
    expected = by_source(kernel_of(network, "classifier"), [4, 4])
    np.testing.assert_allclose(stage.means[3, [2, 1]], expected)
    assert (stage.means[1:3] == 0).sum() == 3


def test_groups_of_a_layer_read_slices_and_each_other(data_dir):
    """The exploded view: all weights belong to one slice, or one group before."""
    network = restored(data_dir, "seqresnet", group_width=8, widening=1, blocks=1)
    found = link_weights(network)
    stage = found["stage2/layer1/seqconv_b/groups"]
    # 32 channels: sources 0..3 are slices, 4..7 groups, of which the window shows four.
    expected = np.full([9, 8], np.nan)
    for group in range(4):
        kernel = kernel_of(network, f"stage2/layer1/seqconv_b/groups/layer{group + 1}/conv")
        expected[4 + group, group : group + 4] = by_source(kernel, [8] * 4)
    np.testing.assert_allclose(stage.means, expected, rtol=1e-12)
    # What goes on to a block is read by slice there; one that one convolution reads has a row.
    assert np.isnan(found["stage2/layer1/seqconv_a/groups"].means[8]).all()
    down = found["downsample1/extension/groups"].means
    kernel = np.abs(kernel_of(network, "downsample1/downsizing/conv"))  # groups of 8 channels
    ours = [kernel[..., 8 * g : 8 * g + 8].mean() for g in (2, 3)]  # behind the input's two
    np.testing.assert_allclose(down[4, 2:4], ours, rtol=1e-12)
    # Blocks read one output each, so that there is nothing to compare.
    assert "stage1" not in found


def test_channels_of_grouped_convolutions_are_read_by_their_group():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 6))
    means = weight_by_channel(kernel, 3)
    assert means.shape == (12,)
    for group in range(3):
        for channel in range(4):
            read = kernel[:, :, channel, 2 * group : 2 * group + 2]
            np.testing.assert_allclose(means[4 * group + channel], np.abs(read).mean())


def test_networks_that_add_have_none(data_dir, tmp_path):
    network = restored(data_dir, "sparsenet", depth=10, growth_rate=4, aggregation="sum")
    assert heat_maps(network) == {}
    given = SimpleNamespace(stages="*", workdir="w")
    with pytest.raises(UserError, match=r"sparsenet concatenates nowhere.*'shortcuts'"):
        weights.run(network, given, tmp_path)


def test_the_command_writes_a_table_and_a_picture(workdir, tmp_path, capsys):
    arguments = ["analyse", "weights", f"--workdir={workdir}", f"--output={tmp_path}"]
    assert main([*arguments, "--stages=stage[13]"]) == 0
    assert "stage3" in capsys.readouterr().out
    with (tmp_path / "weights.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["stage"] for row in rows} == {"stage1", "stage3"}
    assert max(float(row["normalised"]) for row in rows) == 1
    assert all(float(row["mean_absolute_weight"]) > 0 for row in rows)
    assert (tmp_path / "weights.png").read_bytes().startswith(b"\x89PNG")
    assert main([*arguments, "--stages=stage9"]) == 2
    assert "unknown stage 'stage9'; nearest" in capsys.readouterr().err
