"""Patterns for property tests, and the errors that a user sees."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st

from aggnets_jax.connectivity.topology import make_topology
from aggnets_jax.errors import UserError

properties = settings(deadline=None, derandomize=True, max_examples=100)

ARGUMENTS = {
    "plain": st.just({}),
    "dense": st.just({}),
    "sparse": st.fixed_dictionaries({"base": st.integers(2, 9)}),
    "log_dense": st.fixed_dictionaries({"base": st.floats(1.1, 9)}),
    "log_dense_v2": st.fixed_dictionaries({"stages": st.integers(1, 4)}),
    "windowed": st.fixed_dictionaries({"window": st.integers(1, 70)}),
    "fractal": st.just({}),
    "harmonic": st.just({}),
    "random": st.fixed_dictionaries({"density": st.floats(0, 1), "seed": st.integers(0, 2**40)}),
}
DEPTHS = st.integers(1, 60)

patterns = st.sampled_from(sorted(ARGUMENTS)).flatmap(
    lambda name: st.builds(
        lambda depth, arguments: make_topology(name, depth, **arguments), DEPTHS, ARGUMENTS[name]
    )
)


def one_line_error(call, *arguments, **keywords):
    with pytest.raises(UserError) as caught:
        call(*arguments, **keywords)
    message = str(caught.value)
    assert message and "\n" not in message
    return message
