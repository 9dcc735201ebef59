# SPDX-License-Identifier: Apache-2.0
"""The two lines of systemd's notification protocol that we speak: sd_notify(3) and sd_watchdog_enabled(3).

Silent where there is no systemd.
"""

import os
import socket


def notify(state: str) -> None:
    """Tell the service manager a state such as READY=1 or WATCHDOG=1."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # an abstract socket
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.sendto(state.encode(), address)


def watchdog_interval() -> float | None:
    """Return how often to send WATCHDOG=1, in seconds: half of what the unit allows. None where it asks for none."""
    allowed = os.environ.get("WATCHDOG_USEC", "")
    return int(allowed) / 2_000_000 if allowed.isdecimal() and int(allowed) > 0 else None
