"""Networks without some of their links: sweeps over cuts, exports, and learnt patterns.

Functions share these arguments:

    restored  network restored from a checkpoint
    stages    links of each stage by its name, from `links.find_links`; N is a stage's depth
    cut       links to cut, `(stage, (layer, source))` each
    seed      seed of the network, if the run has several
    data_dir  folder of the data set; default the run's
"""

PENALTIES = ("l1", "topk")
"""Penalties on weights of links, see `pruning`; here, so that --help of `learn` imports no JAX."""
