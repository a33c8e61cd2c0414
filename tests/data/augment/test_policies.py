"""Policies against all that PIL can make of an image by them, each as often as it should be."""

import itertools

import numpy as np
import pytest
import scipy.cluster
import scipy.spatial
import scipy.stats

from aggnets_jax.data.augment.policies import CIFAR, IMAGENET, make_policy
from aggnets_jax.errors import UserError
from tests.data.augment import pil
from tests.data.augment.draws import COUNT, over_keys
from tests.marks import mostly_slow

IMAGE = pil.photo(30, 24)


def directions(name, strength):
    return [strength, -strength] if name in pil.SIGNED else [strength]


def autoaugment(sub_policies):
    """Yield (probability, [(operation, strength), ...]) for all outcomes."""
    for pair in sub_policies:
        choices = []
        for name, probability, *magnitude in pair:
            ways = directions(name, (magnitude or [0])[0] / 9)
            used = [(probability / len(ways), [(name, strength)]) for strength in ways]
            choices.append([*used, (1 - probability, [])])
        for (p, first), (q, second) in itertools.product(*choices):
            yield p * q / len(sub_policies), first + second


def randaugment(num_ops, magnitude):
    choices = []
    for name in (*pil.SIGNED, *pil.OTHERS):
        if name != "invert":
            ways = directions(name, magnitude / 10)
            choices += [(1 / 14 / len(ways), (name, strength)) for strength in ways]
    for chain in itertools.product(choices, repeat=num_ops):
        yield np.prod([p for p, _ in chain]), [operation for _, operation in chain]


CASES = {
    "autoaugment_cifar": (autoaugment(CIFAR), {}),
    "autoaugment_imagenet": (autoaugment(IMAGENET), {}),
    "randaugment": (randaugment(2, 9), {}),
    "randaugment once": (randaugment(1, 4.5), {"num_ops": 1, "magnitude": 4.5}),
}


@mostly_slow("case", CASES, quick=(2,))
def test_outcomes_are_pils_and_as_frequent_as_the_paper_says(case):
    chains, arguments = CASES[case]
    expected = {}
    for probability, chain in chains:
        image = IMAGE
        for name, strength in chain:
            image = pil.operate(name, strength, image)
        expected[image.tobytes()] = expected.get(image.tobytes(), 0) + probability
    assert sum(expected.values()) == pytest.approx(1)

    policy = make_policy(case.split()[0], arguments, IMAGE.shape[:2])
    found, counts = np.unique(
        over_keys(policy, IMAGE).reshape(COUNT, -1), axis=0, return_counts=True
    )
    outcomes = np.stack([np.frombuffer(image, np.uint8) for image in expected])
    distances = scipy.spatial.distance.cdist(found, outcomes, "cityblock") / IMAGE.size
    assert distances.min(axis=1).max() < 1  # a level here and there, and what follows from it
    probabilities = np.array(list(expected.values()))
    observed = np.bincount(distances.argmin(axis=1), counts, len(outcomes))
    assert not observed[probabilities == 0].any()
    # Outcomes that rounding might exchange count together, and so do rare ones.
    links = scipy.cluster.hierarchy.linkage(outcomes, "single", "cityblock")
    group = scipy.cluster.hierarchy.fcluster(links, 0.1 * IMAGE.size, "distance")
    wanted = np.bincount(group, probabilities * COUNT)
    group[wanted[group] < 5] = 0
    wanted = np.bincount(group, probabilities * COUNT)
    observed = np.bincount(group, observed)
    assert scipy.stats.chisquare(observed[wanted > 0], wanted[wanted > 0]).pvalue > 1e-3


def test_policies_have_25_pairs_that_do_something():
    for policy in (CIFAR, IMAGENET):
        assert [len(pair) for pair in policy] == [2] * 25


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("autoaugment", {}, "unknown policy 'autoaugment'; nearest: autoaugment_cifar"),
        ("autoaugment_cifar", {"magnitude": 3}, "policy 'autoaugment_cifar' has no argument"),
        ("none", {"num_ops": 3}, "policy 'none' has no argument 'num_ops'"),
        ("randaugment", {"num_op": 3}, "'num_op'; nearest: num_ops"),
        ("randaugment", {"num_ops": 0}, "num_ops of policy 'randaugment' must be a whole number"),
        ("randaugment", {"magnitude": 11}, "from 0 to 10, got 11"),
        ("randaugment", {"magnitude": "9"}, "'magnitude' of policy 'randaugment' must be float"),
    ],
)
def test_wrong_policies_are_errors(name, arguments, message):
    with pytest.raises(UserError) as error:
        make_policy(name, arguments, (8, 8))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
