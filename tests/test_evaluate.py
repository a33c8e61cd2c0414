"""Labels of an evaluation: those of the checkpoint, in whatever order the data has the classes."""

import dataclasses

import numpy as np
import pytest

from aggnets_jax.data import unnamed_classes
from aggnets_jax.errors import UserError
from aggnets_jax.evaluate import class_numbers, evaluation_batches
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.workdir.restore import restore_network
from tests import runs


def with_classes(*names, **fields):
    return dataclasses.replace(runs.DATASET, class_names=names, num_classes=len(names), **fields)


def test_classes_are_found_by_their_names():
    assert class_numbers(with_classes("a", "b"), with_classes("a", "b")) is None
    assert class_numbers(with_classes("b", "c", "a"), with_classes("a", "b", "c")) == (2, 0, 1)


def test_other_classes_are_named():
    with pytest.raises(UserError, match="new are c; missing are b"):
        class_numbers(with_classes("a", "b"), with_classes("a", "c"))


def test_categories_in_another_order_are_told_as_such():
    trained = with_classes("a", "b", category_ids=(1, 2))
    with pytest.raises(UserError, match="in another order, because their ids differ"):
        class_numbers(trained, with_classes("b", "a", category_ids=(1, 2)))


def test_unnamed_classes_have_the_order_of_the_data_where_it_has_only_one(capsys):
    assert class_numbers(with_classes(*unnamed_classes(2)), with_classes("a", "b")) is None
    assert "the first is 'a'" in capsys.readouterr().out
    numbers = map(str, range(10))
    assert class_numbers(with_classes(*unnamed_classes(10)), with_classes(*numbers)) is None
    numbers = sorted(map(str, range(11)))  # "0", "1", "10", "2", ...: outputs 0, 1, 2 or 0, 1, 10?
    with pytest.raises(UserError, match=r"\(0, 1, 10, 2, \.\.\.\): convert .* --class_names"):
        class_numbers(with_classes(*unnamed_classes(11)), with_classes(*numbers))


def test_labels_of_a_pass_are_those_of_the_checkpoint(finished_run):
    mesh = mesh_lib.make_mesh()
    restored = restore_network(finished_run, "latest", mesh_lib.replicated(mesh))
    usual = np.concatenate([x["label"] for x in evaluation_batches(restored, mesh)])
    names = restored.info.class_names[::-1]
    other = restored._replace(info=dataclasses.replace(restored.info, class_names=names))
    batches = list(evaluation_batches(other, mesh))
    labels = np.concatenate([x["label"] for x in batches])
    mask = np.concatenate([x["mask"] for x in batches])
    assert np.array_equal(labels[mask], 9 - usual[mask])
