# SPDX-License-Identifier: Apache-2.0
"""What can go wrong in the reconciler, sorted by what the caller must do about it.

Knows no source and no remedy beyond its name. Raised everywhere in the package; caught where one source is followed.

    ReconcilerError
    ├── RetrySource            transient: ask this source again later, after `retry_after` seconds if it named any
    │   ├── UnreadableHead     what came back for a tree head is not a tree head
    │   └── UnreadableAnswer   what came back for anything else is not what was asked for
    │       └── ct.entry.UnreadableTile   a data tile stops making sense; carries what was read before
    ├── DistrustLog            the log contradicted itself: keep `proof`, void its coverage, go on reading
    │   └── ct.entry.MisplacedLeaf        a leaf names another position; carries the whole tile as read
    └── UnusableKey            no log can have this key: refuse the configuration or the log it came with
"""

import enum
from collections.abc import Mapping


class Contradiction(enum.StrEnum):
    """How a log contradicted itself. The values label metrics and evidence, so they stay as they are."""

    HEAD_SIGNATURE = "head_signature"  # a well-formed head whose signature by the log's own key fails
    FORK = "fork"  # two signed heads of one size with different roots
    ROLLBACK = "rollback"  # two signed heads of which the later one covers fewer entries
    STALE_HEAD = "stale_head"  # a smaller head that is also not newer: a replica that lags, until it stays so
    ROOT = "root"  # the entries do not hash to the signed root
    LEAF_INDEX = "leaf_index"  # a leaf says in its own bytes that it belongs elsewhere
    UNREADABLE_TILE = "unreadable_tile"  # a data tile that stays unreadable while the tree above it is served
    INCLUSION_PROOF = "inclusion_proof"  # an audit path does not lead to the signed root
    CONSISTENCY_PROOF = "consistency_proof"  # a proof does not connect two signed roots


class ReconcilerError(Exception):
    """Anything the reconciler raises on purpose."""


class RetrySource(ReconcilerError):  # noqa: N818 - these classes are named for what the caller does
    """The source failed for now. `retry_after` is in seconds, None when the source did not say."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnreadableHead(RetrySource):
    """The bytes are no tree head, an error page for instance; a later answer may be one."""


class UnreadableAnswer(RetrySource):
    """The bytes are not the tile, the entries or the list that was asked for; a later answer may be."""


class DistrustLog(ReconcilerError):  # noqa: N818 - these classes are named for what the caller does
    """The log contradicted itself in the way `kind` says; `proof` maps names to the raw evidence.

    Certificates of ours prove themselves by their signature, so reading goes on. Only the log's claim to show
    everything is void.
    """

    def __init__(self, message: str, *, kind: Contradiction, proof: Mapping[str, bytes | str]) -> None:
        super().__init__(message)
        self.kind = kind
        self.proof = dict(proof)


class UnusableKey(ReconcilerError):  # noqa: N818 - these classes are named for what the caller does
    """The bytes are not a public key that RFC 6962 section 2.1.4 lets a log have."""
