# SPDX-License-Identifier: Apache-2.0
"""Questions gathered into few queries, and what becomes of those who wait when a query goes wrong."""

import asyncio
from collections.abc import Callable

import pytest

from responder.gathering import Gathering


class Table:
    """Answers a question with its double, when it is let."""

    def __init__(self) -> None:
        self.queries: list[list[int]] = []
        self.let = asyncio.Event()

    async def query(self, questions: list[int]) -> dict[int, int]:
        self.queries.append(questions)
        await self.let.wait()
        if 13 in questions:
            raise ValueError("a row contradicts itself")
        if 99 in questions:
            raise RuntimeError("a fault")
        return {question: 2 * question for question in questions}


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_is_asked_in_one_turn_is_one_query_and_each_question_is_asked_once() -> None:
    table = Table()
    table.let.set()
    gathering = Gathering(table.query)
    assert await asyncio.gather(*map(gathering.ask, [1, 2, 1, 3])) == [2, 4, 2, 6]
    assert table.queries == [[1, 2, 3]]


async def test_with_two_queries_under_way_the_others_wait_and_go_together() -> None:
    table = Table()
    gathering = Gathering(table.query)
    asked = []
    for question in range(6):
        asked.append(gathering.ask(question))
        await settle()
    assert table.queries == [[0], [1]]
    table.let.set()
    assert await asyncio.gather(*asked) == [0, 2, 4, 6, 8, 10]
    assert table.queries == [[0], [1], [2, 3, 4, 5]]


async def test_a_query_has_a_bound_and_what_is_beyond_it_is_asked_all_the_same() -> None:
    table = Table()
    table.let.set()
    gathering = Gathering(table.query)
    questions = range(100, 1300)
    assert await asyncio.gather(*map(gathering.ask, questions)) == [2 * question for question in questions]
    assert sorted(len(query) for query in table.queries) == [176, 512, 512]


async def test_one_bad_question_spoils_no_other() -> None:
    table = Table()
    table.let.set()
    gathering = Gathering(table.query)
    answers = await asyncio.gather(*map(gathering.ask, [12, 13, 14]), return_exceptions=True)
    assert [answers[0], answers[2]] == [24, 28]
    assert isinstance(answers[1], ValueError)


@pytest.mark.parametrize("waits", [True, False])
async def test_a_fault_is_told_to_whoever_waits_and_the_next_query_goes_on(waits: bool) -> None:
    table = Table()
    table.let.set()
    gathering = Gathering(table.query)
    asked = gathering.ask(99)
    if waits:
        with pytest.raises(RuntimeError, match="a fault"):
            await asked
    else:
        await settle()
    assert await gathering.ask(4) == 8


async def test_at_the_end_nobody_is_left_waiting() -> None:
    table = Table()
    gathering = Gathering(table.query)
    asked = [gathering.ask(question) for question in (1, 2)]
    await settle()
    for task in tuple(gathering._under_way):
        task.cancel()
    ended: Callable[[], list[bool]] = lambda: [each.cancelled() for each in asked]  # noqa: E731 - read twice below
    assert ended() == [False, False]
    await settle()
    assert ended() == [True, True]
