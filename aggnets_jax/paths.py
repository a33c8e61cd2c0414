"""Names of the arrays in a tree."""

from typing import Any

import jax


def by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths, such as "params/stem/kernel", in the tree's order."""
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
