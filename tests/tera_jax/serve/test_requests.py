"""Requests check themselves."""

import pytest

from tera_jax.serve.requests import Request, Sampling


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": -1}, "max_tokens is -1; give an integer from 0 to"),
        ({"max_tokens": True}, "max_tokens is True"),
        ({"temperature": float("nan")}, "temperature is nan; give a number from 0 to 100"),
        ({"temperature": -1}, "temperature is -1"),
        ({"top_p": 0.0}, "top_p is 0; give a number above 0"),
        ({"top_k": -1}, "top_k is -1"),
        ({"seed": 2**63}, "seed is 9223372036854775808"),
        ({"stop_ids": (1,) * 9}, "stop_ids is .* at most 8 ids"),
        ({"logprobs": 21}, "logprobs is 21; give an integer from 0 to 20"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_values_outside_of_their_limits_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**{"max_tokens": 1, **fields})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": ()}, "a prompt of one token at least"),
        ({"tokens": (1.5,)}, "an entry that is no integer"),
        ({"adapter": "../x"}, "is no name of an adapter"),
        ({"echo_logprobs": 21}, "echo_logprobs is 21"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_requests_check_themselves(changes, message):
    fields = {"tokens": (1,), "adapter": None, "sampling": Sampling(1)}
    Request(**fields)
    with pytest.raises(ValueError, match=message):
        Request(**{**fields, **changes})
