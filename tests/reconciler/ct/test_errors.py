# SPDX-License-Identifier: Apache-2.0
"""The tree of errors: what is drawn is what exists."""

import re

import reconciler.ct.entry
from reconciler import errors


def descendants(kind: type[Exception]) -> set[str]:
    names = set[str]()
    for child in kind.__subclasses__():
        if child.__module__ in {errors.__name__, reconciler.ct.entry.__name__}:
            names |= {child.__name__} | descendants(child)
    return names


def test_every_error_is_drawn_in_the_tree_and_nothing_else_is() -> None:
    assert errors.__doc__ is not None
    drawn = set(re.findall(r"[├└]── (?:ct\.entry\.)?(\w+)", errors.__doc__))
    assert drawn == descendants(errors.ReconcilerError)


def test_a_source_may_say_how_long_to_wait_and_nought_seconds_is_an_answer() -> None:
    assert errors.RetrySource("busy").retry_after is None
    assert errors.UnreadableHead("busy", retry_after=0.0).retry_after == 0.0


def test_the_proof_in_an_error_does_not_change_with_what_it_was_made_from() -> None:
    evidence = {"head": b"one"}
    error = errors.DistrustLog("fork", kind=errors.Contradiction.FORK, proof=evidence)
    evidence["head"] = b"two"
    assert error.proof == {"head": b"one"}
