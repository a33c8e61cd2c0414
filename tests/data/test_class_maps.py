"""Maps between the classes of a network and of another data set."""

import dataclasses

import numpy as np
import pytest

from aggnets_jax.convert.facts import imagenet_classes
from aggnets_jax.data import DatasetInfo, map_classes, unnamed_classes
from aggnets_jax.data.class_maps import listed_classes
from aggnets_jax.errors import UserError


def info(names, name="image_folder"):
    shape = dict(image_shape=(8, 8, 3), mean=(0.5,) * 3, std=(0.5,) * 3)
    numbers = dict(num_train=1, num_eval=1, train_split="train", eval_split="test")
    return DatasetInfo(
        name, len(names), tuple(names), **shape, **numbers, resident=False, resized=True
    )


IMAGENET = info(imagenet_classes(), "imagenet2012")


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [("imagenet_a", (6, 11, 13), (986, 987, 988)), ("imagenet_r", (1, 2, 4), (981, 983, 988))],
)
def test_lists_of_imagenet_a_and_r(name, first, last):
    """The first and last numbers are those in the authors' evaluations."""
    listed = listed_classes(name)
    found = map_classes(IMAGENET, dataclasses.replace(IMAGENET, name=f"{name}:0.1.0"))
    assert len(set(listed)) == 200 and tuple(sorted(listed)) == listed
    assert tuple(found.classes[:3]) == first and tuple(found.classes[-3:]) == last
    assert np.count_nonzero(found.labels >= 0) == 200
    np.testing.assert_array_equal(found.labels[found.classes], np.arange(200))
    folder = map_classes(IMAGENET, info(listed))  # the same in folders with the names
    np.testing.assert_array_equal(folder.classes, found.classes)
    np.testing.assert_array_equal(folder.labels, np.arange(200))


def test_folders_named_by_numbers_are_imagenet_v2():
    names = sorted(map(str, range(1000)))  # "0", "1", "10", "100", ...
    found = map_classes(IMAGENET, info(names))
    assert names[3] == "100" and found.labels[3] == 100
    np.testing.assert_array_equal(found.classes, np.arange(1000))


def test_a_part_of_the_classes_is_judged_alone(capsys):
    found = map_classes(info("abcd"), info("db"))
    assert found.classes.tolist() == [3, 1] and found.labels.tolist() == [0, 1]
    assert "judged among 2 of the network's 4 classes" in capsys.readouterr().out


def test_classes_in_another_order_are_found_by_their_names():
    found = map_classes(info("bca"), info("abc"))
    assert found.classes.tolist() == [0, 1, 2] and found.labels.tolist() == [2, 0, 1]


def test_numbers_have_no_order_for_a_network_without_names():
    theirs = sorted(map(str, range(11)))  # outputs 0, 1, 2 or 0, 1, 10?
    with pytest.raises(UserError, match=r"\(0, 1, 10, 2, \.\.\.\): training on a set"):
        map_classes(info(unnamed_classes(11)), info(theirs))
    converted = dataclasses.replace(info(unnamed_classes(11)), num_train=0)
    with pytest.raises(UserError, match="--class_names of aggnets convert names the outputs"):
        map_classes(converted, info(theirs))
    assert map_classes(info(unnamed_classes(10)), info("0123456789")) is None


def test_equal_and_unnamed_classes_need_no_map():
    cifar = info("abcdefghij", "cifar10")
    assert map_classes(cifar, info("abcdefghij")) is None
    assert map_classes(info(unnamed_classes(3)), info("abc")) is None
    numbered = info("0123456789", "cifar10_corrupted/fog_3")
    assert map_classes(cifar, numbered) is None


def test_imagenet_a_is_of_its_classes_in_any_order_and_without_names(capsys):
    names = imagenet_classes()
    other = dataclasses.replace(IMAGENET, name="imagenet_a:0.1.0")
    for own in (names[::-1], [*names, "a class more"]):
        found = map_classes(info(own), other)
        assert [own[number] for number in found.classes] == list(listed_classes("imagenet_a"))
        assert np.count_nonzero(found.labels >= 0) == 200
    found = map_classes(info(unnamed_classes(1000)), other)
    np.testing.assert_array_equal(found.classes, map_classes(IMAGENET, other).classes)
    assert f"the first is {names[0]!r}" in capsys.readouterr().out


def test_without_names_a_set_may_lack_the_last_classes():
    found = map_classes(info(unnamed_classes(4)), info(unnamed_classes(3)))
    assert found.classes.tolist() == [0, 1, 2, 3] and found.labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("names", ["abx", "0123", "abcde"])
def test_other_classes_are_refused(names):
    with pytest.raises(UserError, match="has other classes than the checkpoint's: new are"):
        map_classes(info("abcd"), info(names))
