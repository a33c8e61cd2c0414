"""The losses of a student, compared with their formulas in NumPy."""

import ml_collections
import numpy as np
import pytest
from scipy.special import log_softmax

from aggnets_jax import config as config_lib
from aggnets_jax.errors import UserError
from aggnets_jax.training.distillation import Distillation, make_distillation

RANDOM = np.random.default_rng(0)
STUDENT, TEACHER = RANDOM.standard_normal((2, 3, 5)) * 2
MAPS = RANDOM.standard_normal((2, 3, 4, 4, 6))
LOSSES = RANDOM.uniform(size=3)


def test_soft_targets_and_hints_are_as_in_their_papers():
    asked = Distillation(weight=0.7, temperature=3.0, hints=(("a", "b"),), hint_weight=0.5)
    found = asked.losses(
        np.float32(LOSSES),
        {"logits": np.float32(STUDENT), "a": np.float32(MAPS[0])},
        {"logits": np.float32(TEACHER), "b": np.float32(MAPS[1])},
        np.array([True, True, False]),
    )
    student, teacher = (log_softmax(x / 3.0, axis=1) for x in (STUDENT, TEACHER))
    divergence = (np.exp(teacher) * (teacher - student)).sum(1)
    hints = ((MAPS[0] - MAPS[1]) ** 2).mean((1, 2, 3))
    expected = 0.3 * LOSSES + np.array([1, 1, 0]) * (0.7 * 9 * divergence + 0.5 * hints)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_attention_compares_where_features_are_large():
    asked = Distillation(weight=0.0, hints=(("a", "b"),), hint="attention")
    narrow = MAPS[1][..., :2]
    found = asked.losses(
        np.float32(LOSSES),
        {"logits": np.float32(STUDENT), "a": np.float32(MAPS[0])},
        {"logits": np.float32(TEACHER), "b": np.float32(narrow)},
        np.ones(3, bool),
    )
    maps = [(x**2).sum(-1).reshape(3, -1) for x in (MAPS[0], narrow)]
    maps = [q / np.linalg.norm(q, axis=1, keepdims=True) for q in maps]
    np.testing.assert_allclose(found, LOSSES + ((maps[0] - maps[1]) ** 2).sum(1), rtol=1e-5)


@pytest.mark.parametrize(
    "field", [{"teacher_args": {"weight": 0.5}}, {"teacher_checkpoint": "best"}]
)
def test_fields_for_a_teacher_need_one(field):
    with pytest.raises(UserError, match=f"^config.{next(iter(field))} is for a teacher: set"):
        make_distillation(config_lib.resolve(field))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temprature": 2.0}, "nearest: temperature"),
        ({"weight": 1.5}, "teacher_args.weight must be a number from 0 to 1"),
        ({"temperature": 0.0}, "teacher_args.temperature must be a number"),
        ({"hint": "atention"}, "nearest: attention"),
        ({"hints": ("stage1", "stage1")}, "must be pairs of endpoints"),
        ({"hints": 5}, "'hints' of teacher must be"),
        ({"hints": (("a", "b", "c"),)}, "hints"),
        ({"cached": True, "hints": (("a", "b"),)}, "it allows neither hints"),
    ],
)
def test_wrong_arguments_are_told_in_a_line(arguments, message):
    config = {
        "teacher": "runs/big",
        "teacher_args": arguments,
        "task": "classification",
        "progressive": (),
        "data": {"mixup": 0.0, "cutmix": 0.0},
    }
    with pytest.raises(UserError, match=message):
        make_distillation(ml_collections.ConfigDict(config))
