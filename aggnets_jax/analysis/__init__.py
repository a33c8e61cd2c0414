"""Analyses of a trained network, as papers make them: `aggnets analyse NAME --workdir=...`.

Each analysis is a file with `add_arguments(parser)` for its own flags, and
`run(restored, given, output)`, which prints a table and writes files into the folder `output`.
Their functions share these arguments:

    restored  network of a checkpoint, with the variables of one seed
    images    float [B, height, width, channels], normalised
    labels    int [B]
    stages    links of each stage by its name, from `taps.stages_of`; N is a stage's depth
    matrix    float [N + 2, N + 1], a number for each link of a stage by layer and source; layer
              N + 1 is the stage's output, and NaN says that there is no link
"""
