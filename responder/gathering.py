# SPDX-License-Identifier: Apache-2.0
"""Questions gathered: what is asked while a query is under way goes into the next one, and each is asked once.

A query costs far more than a question in it. Knows no table; lookups.py and stored.py say what a query is.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Final, Generic, TypeVar

_Question = TypeVar("_Question", bound=Hashable)
_Result = TypeVar("_Result")

# Questions to a query: more would make one slow answer hold up many.
_MOST_QUESTIONS: Final = 512
# Queries under way at the same time: with a second one the table is not idle while the answers of the first are signed.
_MOST_QUERIES: Final = 2


class Gathering(Generic[_Question, _Result]):
    """Gathers the questions of one worker. Nobody who waits may be cancelled: others may wait for the same."""

    def __init__(self, query: Callable[[list[_Question]], Awaitable[Mapping[_Question, _Result]]]) -> None:
        """`query` answers every question it is given, or raises what all who asked are to be told.

        A ValueError is about one of the questions: they are then asked one by one.
        """
        self._query = query
        self._waiting: dict[_Question, asyncio.Future[_Result]] = {}
        self._under_way: set[asyncio.Task[None]] = set()

    def ask(self, question: _Question) -> "asyncio.Future[_Result]":
        """Return what will be the answer."""
        future = self._waiting.get(question)
        if future is None:
            loop = asyncio.get_running_loop()
            if not self._waiting:
                loop.call_soon(self._send)
            future = self._waiting[question] = loop.create_future()
        return future

    def _send(self) -> None:
        """Ask what is waiting; what finds no free place is asked when one becomes free."""
        while self._waiting and len(self._under_way) < _MOST_QUERIES:
            asked, self._waiting = self._waiting, {}
            for question in list(asked)[_MOST_QUESTIONS:]:
                self._waiting[question] = asked.pop(question)
            task = asyncio.ensure_future(self._ask(asked))
            self._under_way.add(task)
            task.add_done_callback(self._free)

    def _free(self, task: "asyncio.Task[None]") -> None:
        self._under_way.discard(task)
        self._send()

    async def _ask(self, asked: "dict[_Question, asyncio.Future[_Result]]") -> None:
        try:
            answers = await self._query(list(asked))
        except ValueError as exc:
            # Whoever asked about others in the same query is not to suffer for it.
            if len(asked) > 1:
                for question, future in asked.items():
                    await self._ask({question: future})
            else:
                _fail(asked, exc)
        except BaseException as exc:
            # Refused, or cancelled at shutdown: whoever waits must not wait for ever.
            _fail(asked, exc)
            if not isinstance(exc, Exception):
                raise
        else:
            for question, future in asked.items():
                if not future.done():
                    future.set_result(answers[question])


def _fail(asked: "dict[_Question, asyncio.Future[_Result]]", exc: BaseException) -> None:
    for future in asked.values():
        if not future.done():
            if isinstance(exc, asyncio.CancelledError):
                future.cancel()
                continue
            future.set_exception(exc)
            # There may be nobody left who waits; an exception that nobody fetches is no news.
            future.exception()
