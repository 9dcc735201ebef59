# SPDX-License-Identifier: Apache-2.0
"""Waiting for so long and no longer, whatever the one that is waited for makes of being cancelled."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")


async def within(seconds: float, work: Coroutine[Any, Any, _Result]) -> _Result:
    """Await the work for so long. Raises TimeoutError at once then: cancelling a query on a dead line takes seconds."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
    finally:
        if not task.done():
            task.cancel()
            task.add_done_callback(_retrieve)
    if not task.done():
        raise TimeoutError(f"no answer within {seconds} seconds")
    return task.result()


def _retrieve(task: "asyncio.Task[Any]") -> None:
    """Fetch what nobody waits for any more, so that asyncio does not complain of it."""
    if not task.cancelled():
        task.exception()
