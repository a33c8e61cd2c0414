"""Evaluation of a network without links, for many cuts at once by one compiled program.

    ablation = Ablation(restored, mesh)
    baseline, measured, examples = ablation.measure(sets.single_links(ablation.stages))

The program evaluates a batch for several masks at once, by `jax.vmap`; each device has its own
examples. Masks are an input of the program, so it is compiled once. If fewer masks are left than
it takes, the others cut nothing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, PartitionSpec

from aggnets_jax import data
from aggnets_jax.ablation.batch_statistics import Changed, make_estimate, on_each_device
from aggnets_jax.ablation.sets import CutSet, StageLink
from aggnets_jax.ablation.tally import Measurement, Tally
from aggnets_jax.connectivity import links as links_lib
from aggnets_jax.errors import Diverged, UserError
from aggnets_jax.evaluate import evaluation_batches
from aggnets_jax.runtime.compilation import compiler_options
from aggnets_jax.runtime.notes import counted
from aggnets_jax.tasks.classification import score
from aggnets_jax.training.state import Variables
from aggnets_jax.workdir.restore import Restored

Scores = Callable[[Variables, Changed, data.Batch], dict[str, jax.Array]]

Chunk = tuple[slice, Changed]
"""The numbers of the sets that a call of the program is for, and its input for them."""

# Bytes of the largest feature map of all examples and masks at a time. A CPU is fast within its
# caches; an accelerator needs much to do at once.
_BYTES = {"cpu": 1 << 23}
_BYTES_ELSEWHERE = 1 << 30


class Measured(NamedTuple):
    """Measurements over a number of examples, from `Ablation.measure`.

    The baseline is the network as it is, or with its batch statistics re-estimated; `sets` has the
    network without each of the sets of links, compared with the baseline.
    """

    baseline: Measurement
    sets: list[Measurement]
    examples: int


def make_scores(model: nn.Module, preprocess: data.Preprocess, mesh: Mesh) -> Scores:
    """Make the compiled function that scores each example for several masks at once.

    It takes variables; collections in the place of theirs, with an axis of masks in front:
    `{"links": ...}` from `links.collection` of stacked masks, and maybe "batch_stats"; and a batch
    of `data.EvalBatches`. It returns the arrays of `classification.score`, [masks, batch] each.
    Images are preprocessed once.
    """

    def scores(variables: Variables, changed: Changed, batch: data.Batch) -> dict[str, jax.Array]:
        images = preprocess(batch, train=False)

        def with_mask(changed: Mapping[str, Any]) -> dict[str, jax.Array]:
            logits, _ = model.apply({**variables, **changed}, images, train=False)
            return score(logits, batch)

        return jax.vmap(with_mask)(changed)

    return on_each_device(scores, mesh, PartitionSpec(None, "data"), compiler_options())


class Ablation:
    """A network, with the variables of one seed, that can be evaluated without some of its links.

    The program `scores`, see `make_scores`, takes `at_once` sets of links for one call; the first
    `measure` may lower this number, so that the last call is nearly full.
    """

    def __init__(
        self,
        restored: Restored,
        mesh: Mesh,
        *,
        seed: int | None = None,
        data_dir: str | None = None,
        at_once: int | None = None,
        reestimated: int = 0,
    ) -> None:
        """Open the data set; no network is evaluated.

        Args:
          restored: the network, with variables on all devices of the mesh.
          mesh: batches are divided over its devices.
          seed: of a run with several.
          data_dir: of the data set; default that of the run.
          at_once: most sets at a time; default by the size of the network's feature maps.
          reestimated: number of training batches from which the batch statistics of each network
            are estimated anew, the baseline's, too; with 0 they stay as they were trained.

        Raises:
          UserError: for a network without links, an unknown seed, a data set that is missing or has
            other classes, or a number out of range.
        """
        self.stages = linked_stages(restored)
        self.restored = restored._replace(variables=restored.variables_at(seed))
        config = restored.config.copy_and_resolve_references()
        # As many batches, of equal sizes: rows that are no example cost as much as others.
        size = _equal_parts(
            restored.info.num_eval or config.eval_batch_size, config.eval_batch_size
        )
        config.eval_batch_size = -(-size // mesh.size) * mesh.size
        self.batches = evaluation_batches(restored._replace(config=config), mesh, data_dir)
        if at_once is None:
            at_once = default_at_once(restored, config.eval_batch_size // mesh.size)
        elif at_once < 1:
            raise UserError(f"at_once must be at least 1, not {at_once}")
        self.at_once = at_once
        self._measured = False
        preprocess = data.make_preprocess(config.data, restored.info)
        self.scores = make_scores(restored.model, preprocess, mesh)
        self._estimate = None
        if reestimated:
            self._estimate = make_estimate(self.restored, preprocess, mesh, reestimated)

    def measure(self, sets: Sequence[CutSet]) -> Measured:
        """Evaluate the network without each of some sets of links.

        Raises:
          UserError: for an unknown link, or images that are all damaged.
          Diverged: if the loss of the baseline is not finite.
        """
        if not self._measured:
            self.at_once = _equal_parts(1 + len(sets), self.at_once)
            self._measured = True
        chunks = list(self._chunks([(), *(links for _, links in sets)]))
        tally = Tally(1 + len(sets))
        before, skipped = {}, 0
        for batch, part, after in self._evaluated(chunks):
            if part.start == 0:
                before = {name: values[0] for name, values in after.items()}
                skipped += int(np.sum(np.asarray(batch["label"]) < 0))
            after = {name: values[: part.stop - part.start] for name, values in after.items()}
            tally.add(part, before, after, np.asarray(batch["mask"]))
        if tally.examples + skipped != (number := self.batches.num_examples):
            found = f"evaluated {tally.examples} and skipped {skipped}"
            raise RuntimeError(f"{found} of {number} examples")
        if not tally.examples:
            raise UserError(f"all {skipped} images of the evaluation are damaged")
        baseline, *measured = tally.measurements()
        if not np.isfinite(baseline.loss):
            raise Diverged(f"the loss of the evaluation is not finite at step {self.restored.step}")
        return Measured(baseline, measured, tally.examples)

    def variables_without(self, cut: Sequence[StageLink]) -> Variables:
        """Return the variables with which the network is evaluated when links are cut.

        Only batch statistics differ from the network's own, if they are re-estimated.
        """
        _, changed = next(self._chunks([cut]))
        statistics = {name: changed[name] for name in changed if name != "links"}
        return {**self.restored.variables, **jax.tree.map(lambda each: each[0], statistics)}

    def _chunks(self, sets: Sequence[Sequence[StageLink]]) -> Iterator[Chunk]:
        for start in range(0, len(sets), self.at_once):
            part = sets[start : start + self.at_once]
            padded = [*part, *[()] * (self.at_once - len(part))]
            masks = [links_lib.masks_without(self.stages, links) for links in padded]
            changed = links_lib.collection(jax.tree.map(lambda *each: np.stack(each), *masks))
            if self._estimate is not None:
                changed = {**changed, "batch_stats": self._estimate(changed)}
            yield slice(start, start + len(part)), changed

    def _evaluated(
        self, chunks: Sequence[Chunk]
    ) -> Iterator[tuple[data.Batch, slice, dict[str, np.ndarray]]]:
        """Yield batches, sets and their scores, fetched after the next ones are dispatched."""
        ahead = None
        work = ((batch, chunk) for batch in self.batches for chunk in chunks)
        total = len(self.batches) * len(chunks)
        for batch, (part, changed) in counted(work, total, "sets of links by batch of images"):
            behind = ahead
            ahead = batch, part, self.scores(self.restored.variables, changed, batch)
            if behind is not None:
                yield (*behind[:2], jax.device_get(behind[2]))
        yield (*ahead[:2], jax.device_get(ahead[2]))


def linked_stages(restored: Restored) -> dict[str, links_lib.StageLinks]:
    """Return the stages of a network; raise `UserError` if it has no links."""
    stages = links_lib.find_links(restored.model, restored.info.image_shape)
    if not links_lib.all_links(stages):
        raise UserError(f"{restored.config.model.name!r} has no links that could be cut")
    return stages


def default_at_once(restored: Restored, rows: int) -> int:
    """Return a good number of sets of links at a time, for `rows` examples on each device."""
    images = jax.ShapeDtypeStruct((rows, *restored.info.image_shape), jnp.float32)
    init = restored.model.init_with_output
    (_, maps), _ = jax.eval_shape(init, jax.random.key(0), images)
    largest = max(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(maps))
    return max(1, _BYTES.get(jax.default_backend(), _BYTES_ELSEWHERE) // largest)


def _equal_parts(total: int, most: int) -> int:
    """Return the size of the fewest, most equal parts of a total that are not above `most`."""
    return -(-total // -(-total // most))
