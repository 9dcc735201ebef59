# SPDX-License-Identifier: Apache-2.0
"""The straight line of a check from outside: which questions, asked one after another, judged, and compared.

    subjects → questions → answers → faults → Report

Knows neither tables nor terminals. Called by ocsp-admin check-url.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from reconciler.watch.asking import Address, Client, NoReply, Reply
from reconciler.watch.judging import Expected, Judged, Received, compare, is_doubt, judge, kept_doubt
from reconciler.watch.questions import FOREIGN, Question, Way, foreign_questions, plain_questions, questions_about
from responder.status.issuers import CaCertificate

# So long apart, an answer that is signed or sent anew has another time in it (whole seconds).
_APART: Final = 2.1
_NOT_MODIFIED: Final = 304
# RFC 9919 section 3.2.3: what a responder says that has no records of the issuer.
_UNAUTHORIZED: Final = Expected("unauthorized")


class TooManyError(ValueError):
    """More questions than may be asked."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A serial to ask about, and what the table says of it; None where nobody knows."""

    serial: int
    expected: Expected | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to ask about, and within which bounds.

    `certificates` are the CA certificates of one issuer, the first of which names it. `nobody` is a serial that nobody
    has asked for before, with what is expected of it, and `foreign` forty octets that are no issuer's hashes; whoever
    calls draws both at random.
    """

    certificates: Sequence[CaCertificate]
    public: bool
    subjects: Sequence[Subject]
    nobody: Subject
    foreign: bytes
    most_requests: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Report:
    """Every answer with its faults, and the faults of the whole."""

    answers: tuple[Judged, ...]
    faults: tuple[str, ...]

    @property
    def is_right(self) -> bool:
        """Whether there is no fault at all."""
        return not self.faults and not any(each.faults for each in self.answers)


async def check(address: Address, plan: Plan, *, asked: Callable[[Judged], None] = lambda _: None) -> Report:
    """Ask, judge and compare; `asked` hears of each answer as it comes.

    Raises TooManyError before anything is asked.
    """
    main = [list(questions_about(each.serial, plan.certificates[0])) for each in plan.subjects]
    doubt = [
        *plain_questions(plan.nobody.serial, plan.certificates[0]),
        *foreign_questions(plan.nobody.serial, plan.foreign),
    ]
    number = sum(map(len, main)) + 2 * len(doubt) + 1
    if number > plan.most_requests:
        raise TooManyError(f"{number} requests would be asked, and {plan.most_requests} may be")
    async with Client(address) as client:
        asking = _Asking(client, address, plan, asked)
        try:
            async with asyncio.timeout(plan.seconds):
                await asking.everything(main, doubt)
        except TimeoutError:
            asking.faults.append(f"{number - len(asking.answers)} questions were not asked within {plan.seconds:.0f} s")
    return Report(tuple(asking.answers), tuple(asking.faults))


class _Asking:
    """What has been asked and found so far; kept when time runs out."""

    def __init__(self, client: Client, address: Address, plan: Plan, asked: Callable[[Judged], None]) -> None:
        self._client = client
        self._prefix = address.prefix
        self._plan = plan
        self._asked = asked
        self.answers: list[Judged] = []
        self.faults: list[str] = []

    async def everything(self, main: Sequence[Sequence[Question]], doubt: Sequence[Question]) -> None:
        """Ask what is in doubt twice, and everything else in between."""
        first = await self._ask_all(doubt)
        between = asyncio.create_task(asyncio.sleep(_APART))
        for subject, questions in zip(self._plan.subjects, main, strict=True):
            answers = await self._ask_all(questions)
            self._compare(subject, answers)
        await self._ask_conditionally()
        await between
        second = await self._ask_all(doubt)
        self.faults += filter(None, (kept_doubt(*pair) for pair in zip(first, second, strict=True)))
        nobody = [each for each in (*first, *second) if each.question.what != FOREIGN]
        self._compare(self._plan.nobody, nobody)
        foreign = [each for each in (*first, *second) if each.question.what == FOREIGN]
        self.faults += [f"{FOREIGN}: {fault}" for fault in compare(foreign, _UNAUTHORIZED)]

    def _compare(self, subject: Subject, answers: Iterable[Judged]) -> None:
        self.faults += [f"serial {subject.serial:x}: {fault}" for fault in compare(list(answers), subject.expected)]

    async def _ask_all(self, questions: Iterable[Question]) -> list[Judged]:
        found = []
        for question in questions:
            judged = await self._ask(question)
            self.answers.append(judged)
            self._asked(judged)
            found.append(judged)
        return found

    async def _ask(self, question: Question) -> Judged:
        body = question.request if question.way is Way.POST else None
        reply = await self._client.ask(question.path(self._prefix), body=body)
        if isinstance(reply, NoReply):
            return Judged(question, None, None, (reply.reason,))
        issuers = [each.parsed for each in self._plan.certificates]
        return judge(question, _received(reply), issuers=issuers, public=self._plan.public)

    async def _ask_conditionally(self) -> None:
        """Ask once more for an answer that we have (RFC 9110 section 13.1.2): 304, or another answer."""
        had = next((each for each in self.answers if _may_be_asked_for_again(each)), None)
        if had is None or had.received is None:
            return
        tag = had.received.header("etag") or ""
        reply = await self._client.ask(had.question.path(self._prefix), headers={"If-None-Match": tag})
        if isinstance(reply, NoReply):
            self.faults.append(f"asked for again with If-None-Match: {reply.reason}")
        elif reply.status != _NOT_MODIFIED and reply.header("etag") == tag:
            self.faults.append(f"If-None-Match names the answer that is there, and {reply.status} comes instead of 304")


def _may_be_asked_for_again(judged: Judged) -> bool:
    got = judged.question.way is Way.ESCAPED and judged.read is not None and not is_doubt(judged.read)
    return got and judged.received is not None and judged.received.header("etag") is not None


def _received(reply: Reply) -> Received:
    headers = {name.lower(): reply.header(name) or "" for name in reply.headers}
    return Received(reply.status, headers, reply.body, reply.at)
