"""Log-DenseNet V2: one topology over the whole network."""

from aggnets_jax import create_model, make_topology
from aggnets_jax.models.log_densenet_v2 import stage_part


def test_the_links_of_the_whole_network():
    whole = make_topology("log_dense_v2", 12, stages=2)
    assert whole.sources_of(1) == (0,)
    assert whole.sources_of(6) == (0, 2, 4, 5)
    assert whole.sources_of(7) == tuple(range(7))
    assert whole.sources_of(9) == (*range(7), 7, 8)
    assert whole.output_sources == (*whole.sources_of(12), 12)


def test_a_stage_reads_all_before_it_as_its_input():
    whole = make_topology("log_dense_v2", 12, stages=2)
    first, second = (stage_part(whole, stage, 2) for stage in range(2))
    assert first.sources[:-1] == second.sources[:-1]
    assert second.sources_of(6) == (0, 2, 4, 5)
    assert first.output_sources == (1, 2, 3, 4, 5, 6)
    assert second.output_sources == (0, 2, 4, 5, 6)


def test_the_named_network_has_three_stages():
    model = create_model("log_densenet_v2_100_k40")
    assert [topology.depth for topology in model.topologies] == [32, 32, 32]
