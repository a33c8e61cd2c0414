"""Networks without some of their links: sweeps over cuts, exports, and learnt patterns.

Functions share these arguments:

    restored  network of a checkpoint
    stages    links of each stage by its name, from `links.find_links`; N is a stage's depth
    cut       links to cut, `(stage, (layer, source))` each
    seed      of a run with several
    data_dir  of the data set; default the run's
"""

PENALTIES = ("l1", "topk")
"""Penalties on weights of links, see `pruning`; here, so that --help of `learn` imports no JAX."""
