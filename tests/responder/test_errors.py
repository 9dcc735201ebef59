# SPDX-License-Identifier: Apache-2.0
"""The tree of errors: one class for each status that is not a success, and lines an operator can read."""

import pytest

from responder.errors import (
    InternalError,
    LintError,
    MalformedRequest,
    OcspError,
    PolicyError,
    Refusal,
    ResponseStatus,
    SignerRefused,
    SigRequired,
    TryLater,
    Unauthorized,
)

BY_STATUS: dict[ResponseStatus, type[OcspError]] = {
    ResponseStatus.MALFORMED_REQUEST: MalformedRequest,
    ResponseStatus.INTERNAL_ERROR: InternalError,
    ResponseStatus.TRY_LATER: TryLater,
    ResponseStatus.SIG_REQUIRED: SigRequired,
    ResponseStatus.UNAUTHORIZED: Unauthorized,
}


def test_every_status_but_success_has_its_error() -> None:
    assert set(BY_STATUS) == set(ResponseStatus) - {ResponseStatus.SUCCESSFUL}
    assert set(BY_STATUS.values()) == set(OcspError.__subclasses__())


@pytest.mark.parametrize(("status", "kind"), BY_STATUS.items())
def test_an_error_carries_its_status_a_word_and_a_line(status: ResponseStatus, kind: type[OcspError]) -> None:
    error = kind(Refusal.DEADLINE, "the answer would come too late")
    assert (error.status, error.reason, str(error)) == (status, "deadline", "the answer would come too late")


def test_the_words_for_metrics_are_plain_and_short() -> None:
    for refusal in Refusal:
        assert refusal.replace("_", "").isalpha()
        assert refusal == refusal.lower()
        assert len(refusal) <= 20


def test_a_lint_error_is_an_internal_error_with_its_rule() -> None:
    error = LintError("RFC 0", "a detail")
    assert isinstance(error, InternalError)
    assert (error.status, error.reason, error.rule) == (ResponseStatus.INTERNAL_ERROR, Refusal.LINT, "RFC 0")
    assert str(error) == "a detail (RFC 0)"


@pytest.mark.parametrize("kind", [PolicyError, SignerRefused])
def test_what_an_operator_reads_names_the_rule(kind: type[PolicyError] | type[SignerRefused]) -> None:
    error = kind("BR 0", "a detail")
    assert (error.rule, str(error)) == ("BR 0", "a detail (BR 0)")
    assert not isinstance(error, OcspError)
