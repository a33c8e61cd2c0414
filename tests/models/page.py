"""docs/models.md, read back: the golden table of all listed networks."""

from pathlib import Path

from aggnets_jax.models import page

ROWS = page.read((Path(__file__).parents[2] / "docs" / "models.md").read_text())
