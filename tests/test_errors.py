"""The facts of errors."""

from __future__ import annotations

import pickle

import pytest

from hydraopt import errors
from hydraopt.errors import HydraoptError, explain

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, HydraoptError)
]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_keeps_the_facts_of_its_message_between_processes(kind) -> None:
    error = kind(explain("ranks differ", adapter="fr", module="h.0.q", got=8, expected=4))
    for one in (error, pickle.loads(pickle.dumps(error))):
        assert (one.what, one.adapter, one.module) == ("ranks differ", "fr", "h.0.q")
        assert (one.got, one.expected, one.file, one.do) == (8, 4, None, None)
        assert str(one) == str(error)


def test_an_error_with_a_plain_text_has_no_facts() -> None:
    error = HydraoptError("something")
    assert (error.what, error.got) == (None, None)


def test_a_message_within_another_keeps_its_facts() -> None:
    error = HydraoptError(explain("ranks differ", adapter="fr"))
    other = HydraoptError(error.within("not usable: ", " (of two)"))
    assert (str(other), other.adapter) == ("not usable: ranks differ [adapter fr]. (of two)", "fr")
    assert str(HydraoptError(HydraoptError("x").within("not usable: "))) == "not usable: x"
