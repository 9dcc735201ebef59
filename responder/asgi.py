# SPDX-License-Identifier: Apache-2.0
"""The shapes of ASGI 3, as app.py, fastpath.py and server.py pass them on. No behaviour."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]
