"""What layers and the outputs that they read are called on the page."""

from collections.abc import Mapping

from aggnets_jax.links import StageLinks


class LinkNames:
    """Names of both ends of links.

    Args:
      stages: of the network, from `find_links`. Ends in other stages go by their numbers.
    """

    def __init__(self, stages: Mapping[str, StageLinks]) -> None:
        self._stages = stages

    def layer(self, stage: str, number: int) -> str:
        """Heads a column: "5", or "out" for what stands for the stage's output."""
        return "out" if self._is_output(stage, number) else str(number)

    def source(self, stage: str, number: int) -> str:
        """Heads a row: "4", or "in" for a stage's input, "in 2" if it has several."""
        inputs = self._inputs(stage)
        if number >= inputs:
            return str(number)
        return "in" if inputs == 1 else f"in {number}"

    def told_layer(self, stage: str, number: int) -> str:
        """In a sentence: "layer 5" or "the output"."""
        return "the output" if self._is_output(stage, number) else f"layer {number}"

    def told_source(self, stage: str, number: int) -> str:
        """In a sentence: "4", "the input" or "input 2"."""
        inputs = self._inputs(stage)
        if number >= inputs:
            return str(number)
        return "the input" if inputs == 1 else f"input {number}"

    def _is_output(self, stage: str, number: int) -> bool:
        return stage in self._stages and number == self._stages[stage].topology.depth + 1

    def _inputs(self, stage: str) -> int:
        """How many inputs a stage has; they have the lowest numbers."""
        links = self._stages[stage].links if stage in self._stages else ()
        return min((layer for layer, _ in links), default=0)
