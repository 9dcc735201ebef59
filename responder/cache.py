# SPDX-License-Identifier: Apache-2.0
"""Signed answers in memory, by the octets of the request. It holds signatures, never truth (invariant 5).

An answer leaves when the feed says that a status behind it has moved, when it is due to be signed anew or, after the
clock was set back, not valid yet, or when newer ones need the room. One per worker; all calls come from the event
loop, and none blocks.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from responder.answer import Answer
from responder.status.store import Key

# What may be kept of one answer, request and response together: more than one certificate of the common kind needs, and
# far less than the largest request. With a bound on their number this bounds the memory of all.
_MOST_OCTETS: Final = 4096
# A spelling of a path, of which a few are kept: base64 of a common request, every octet of it escaped, fits.
_MOST_PATH_OCTETS: Final = 1024
_MOST_SPELLINGS: Final = 4


@dataclass(frozen=True, slots=True)
class _Kept:
    answer: Answer
    about: tuple[Key, ...]
    spellings: list[bytes]


class Cache:
    """At most `most` answers, the least recently used leaving first."""

    def __init__(self, *, most: int) -> None:
        """Start empty."""
        self._most = most
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        #: Octets of all kept answers and of the requests to them.
        self.octets = 0
        self._by_key: defaultdict[Key, set[bytes]] = defaultdict(set)
        # A GET's path, exactly as sent, to the request in it: same spelling, same request.
        self._spelled: dict[bytes, bytes] = {}
        # The feed's readings, counted; and in which of them a status was last reported as changed.
        self.readings = 0
        self._changed_in: dict[Key, int] = {}
        self._emptied_in = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, request: bytes, *, now: datetime) -> Answer | None:
        """Return the answer to these octets, if one is kept and not due."""
        kept = self._kept.get(request)
        if kept is None or kept.answer.times is None:
            return None
        # An answer from the future is one from before the clock was set back.
        if not kept.answer.times.this_update <= now < kept.answer.times.refresh_at:
            self._drop(request)
            return None
        self._kept.move_to_end(request)
        return kept.answer

    def get_spelled(self, path: bytes, *, now: datetime) -> Answer | None:
        """Return the answer to a GET of this very path."""
        request = self._spelled.get(path)
        return None if request is None else self.get(request, now=now)

    def put(self, request: bytes, answer: Answer, *, about: Sequence[Key], read_in: int) -> None:
        """Keep an answer. `read_in` is `readings` as it was before the status was looked up.

        What the feed reported since then may not be in the answer, so such an answer is not kept.
        """
        if not answer.is_cacheable or read_in < self._emptied_in:
            return
        if len(request) + len(answer.body) > _MOST_OCTETS:
            return
        if any(self._changed_in.get(key, -1) > read_in for key in about):
            return
        self._drop(request)
        self._kept[request] = _Kept(answer, tuple(about), [])
        self.octets += len(request) + len(answer.body)
        for key in about:
            self._by_key[key].add(request)
        while len(self._kept) > self._most:
            self._drop(next(iter(self._kept)))

    def spell(self, path: bytes, request: bytes) -> None:
        """Remember that a GET of this path asks for that request, as long as its answer is kept."""
        kept = self._kept.get(request)
        # A client may spell one request in endless ways; a few are worth remembering.
        if kept is None or path in self._spelled or len(path) > _MOST_PATH_OCTETS:
            return
        if len(kept.spellings) < _MOST_SPELLINGS:
            kept.spellings.append(path)
            self._spelled[path] = request

    def changed(self, keys: Iterable[Key]) -> None:
        """Hear of a reading of the feed: the answers about these certificates are gone from here on."""
        self.readings += 1
        for key in keys:
            self._changed_in[key] = self.readings
            for request in tuple(self._by_key.get(key, ())):
                self._drop(request)

    def forget_changes(self, *, before: int) -> None:
        """Let go of what was only needed for answers whose look-up began before that reading."""
        self._changed_in = {key: reading for key, reading in self._changed_in.items() if reading >= before}

    def empty(self) -> None:
        """Drop everything, and keep nothing whose look-up began before this moment."""
        self.readings += 1
        self._emptied_in = self.readings
        self._kept.clear()
        self.octets = 0
        self._by_key.clear()
        self._spelled.clear()
        self._changed_in.clear()

    def _drop(self, request: bytes) -> None:
        kept = self._kept.pop(request, None)
        if kept is None:
            return
        self.octets -= len(request) + len(kept.answer.body)
        for path in kept.spellings:
            del self._spelled[path]
        for key in kept.about:
            requests = self._by_key[key]
            requests.discard(request)
            if not requests:
                del self._by_key[key]
