"""Reports made from workdirs of runs: pages, comparisons, tables of results."""
