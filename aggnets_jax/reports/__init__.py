"""What is read from workdirs: pages, comparisons, tables of results."""
