# SPDX-License-Identifier: Apache-2.0
"""One session on a token, held by a process of its own (token.py): starting it, asking it, ending it.

Knows processes and the wire; pkcs11.py keeps several of these and knows what they sign.
"""

import asyncio
import os
import socket
import subprocess
import sys
from asyncio import StreamReader, StreamWriter
from contextlib import suppress
from typing import Final, Self

import msgspec

from responder.signing import wire
from responder.signing.wire import Failed, Opened, Signed, Trouble

# Nothing of the database or of systemd is the token library's business.
_HIDDEN: Final = {"OCSP_DATABASE_DSN", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"}
# The process ends itself when the library hangs; we give it so much longer before we stop waiting (seconds).
_GRACE: Final = 0.5
# A Python starts and loads the library in a fraction of this on an idle machine (seconds).
_START: Final = 10.0


class TokenError(Exception):
    """A session that cannot be opened, or is of no more use: why, and what is to be done about it."""

    def __init__(self, trouble: Trouble, detail: str) -> None:
        super().__init__(detail)
        self.trouble = trouble


class Session:
    """One process with one session. Not to be asked twice at once. `opened` is what the token told of the key."""

    opened: Opened

    def __init__(
        self, process: "subprocess.Popen[bytes]", reader: StreamReader, writer: StreamWriter, *, limit: float
    ) -> None:
        """Hold a process that was started; `open` is how to get one."""
        self._process = process
        self._reader = reader
        self._writer = writer
        self._limit = limit

    @classmethod
    async def open(cls, asked: wire.Open | wire.Generate, *, limit: float) -> Self:
        """Start a process that opens the key, or makes one. The library may take `limit` seconds for each thing asked.

        Raises TokenError.
        """
        session = await cls._start(limit)
        try:
            session.opened = await session.say_open(asked)
        except BaseException:
            await session.close()
            raise
        return session

    async def sign(self, octets: bytes) -> bytes:
        """Return the token's signature over these octets. Raises TokenError, after which the session is of no use."""
        said = await self._ask(wire.Sign(octets), limit=self._limit + _GRACE)
        if not isinstance(said, Signed):
            raise TokenError(Trouble.GONE, "the token's process makes no sense")
        return said.octets

    async def close(self) -> None:
        """End the process, whatever it is doing, and wait for that."""
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()
        await asyncio.to_thread(_end, self._process)

    @classmethod
    async def _start(cls, limit: float) -> Self:
        """Start the process, and leave none behind when nobody waits for it any more. Raises TokenError."""
        ours, theirs = socket.socketpair()
        # In a thread, which is not to be left alone with what it starts: starting takes milliseconds.
        starting = asyncio.ensure_future(asyncio.to_thread(_start, theirs, limit))
        try:
            await asyncio.wait([starting])
            process = starting.result()
            reader, writer = await asyncio.open_unix_connection(sock=ours)
        except OSError as exc:
            ours.close()
            raise TokenError(Trouble.GONE, f"no process for the token can be started: {exc.strerror}") from exc
        except asyncio.CancelledError:
            ours.close()
            await asyncio.to_thread(_end, await starting)
            raise
        finally:
            theirs.close()
        return cls(process, reader, writer, limit=limit)

    async def say_open(self, asked: wire.Open | wire.Generate) -> Opened:
        """Have the process open or make the key. Raises TokenError."""
        said = await self._ask(asked, limit=self._limit + _START)
        if not isinstance(said, Opened):
            raise TokenError(Trouble.GONE, "the token's process makes no sense")
        return said

    async def _ask(self, asked: wire.Request, *, limit: float) -> wire.Reply:
        try:
            async with asyncio.timeout(limit):
                self._writer.write(wire.frame(asked))
                await self._writer.drain()
                length = int.from_bytes(await self._reader.readexactly(wire.LENGTH_OCTETS))
                said = wire.reply(await self._reader.readexactly(min(length, wire.MOST_OCTETS)))
        except TimeoutError as exc:
            raise TokenError(Trouble.GONE, f"the token did not answer within {limit:g} seconds") from exc
        except (OSError, EOFError, msgspec.MsgspecError) as exc:
            raise TokenError(Trouble.GONE, await asyncio.to_thread(_last_words, self._process, self._limit)) from exc
        if isinstance(said, Failed):
            raise TokenError(said.trouble, said.detail)
        return said


def _start(line: socket.socket, limit: float) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(  # noqa: S603 - our own interpreter and module
        [sys.executable, "-P", "-m", "responder.signing.token", str(line.fileno()), str(limit)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[line.fileno()],
        env={name: value for name, value in os.environ.items() if name not in _HIDDEN},
    )


def _end(process: "subprocess.Popen[bytes]") -> None:
    # It has read the end of its socket by now, unless it hangs in the library.
    try:
        process.wait(timeout=1.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_words(process: "subprocess.Popen[bytes]", limit: float) -> str:
    """Say how the process ended that closed its line without a word."""
    with suppress(subprocess.TimeoutExpired):
        code = process.wait(timeout=1.0)
        if code == -14:
            return f"the token did not answer within {limit:g} seconds"
        return f"the token's library ended its process ({f'signal {-code}' if code < 0 else f'code {code}'})"
    return "the token's process closed its line"
