# SPDX-License-Identifier: Apache-2.0
"""The master as gunicorn runs it: how many workers, on which sockets, and what becomes of them on a signal.

Reads the settings again on SIGHUP and replaces the workers one by one. Answers nothing, and knows no OCSP.
"""

import os
import signal
from typing import Any, Final

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger

from responder import config
from responder.oversight import Shared
from responder.runtime import logs
from responder.runtime.logs import get_logger
from responder.runtime.settings import SettingsError
from responder.runtime.systemd import notify
from responder.server import Responder, Start, read_start
from responder.snapshots import Snapshots
from responder.sockets import private_listener
from responder.worker import ENDINGS

_log = get_logger("master")

# A worker that does not answer gunicorn for so long is replaced (seconds).
_WORKER_TIMEOUT: Final = 30


class _QuietLogger(Logger):  # type: ignore[misc] # ships no types
    """Lets gunicorn's lines go where all others go, as JSON."""

    def setup(self, cfg: Any) -> None:
        """Take gunicorn's settings and no handler of its own."""
        self.cfg = cfg
        self._access_log_enabled = False
        self.error_log.propagate = True
        self.access_log.propagate = False


class _Arbiter(Arbiter):  # type: ignore[misc] # ships no types
    """gunicorn's master, which also tells systemd's watchdog that it turns, and adds up what ended workers counted."""

    def __init__(self, app: "Server", shared: Shared) -> None:
        """Serve the application."""
        super().__init__(app)
        self._server = app
        self._snapshots = shared.snapshots
        # Workers with former settings, and those among all that have been told to end.
        self._outdated: set[int] = set()
        self._leaving: set[int] = set()

    def spawn_worker(self) -> Any:
        """Fork a worker. It is deaf until it has put its own ear in place, or it would hear with the master's."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)
        try:
            return super().spawn_worker()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def reap_workers(self) -> None:
        """Learn which workers have ended. Their numbers cannot be used again before this, so no two are confused."""
        try:
            super().reap_workers()
        finally:
            self._snapshots.bury_all_but(self.WORKERS)

    def murder_workers(self) -> None:
        """Replace workers that hang: gunicorn does this about once a second, so it is a sign of life."""
        super().murder_workers()
        notify("WATCHDOG=1")

    def reload(self) -> None:
        """Take over what the settings file says now, and begin to replace the workers; gunicorn's own way is others'.

        It would have all of them stop at once, before one of the new ones is ready.
        """
        if self._server.take_over():
            self.setup(self.app)
            self._outdated = set(self.WORKERS)

    def manage_workers(self) -> None:
        """Have as many workers as there should be, and while they are replaced, one more."""
        if self._outdated or self._leaving:
            self._replace()
        super().manage_workers()

    def _replace(self) -> None:
        """Take the next step: each worker is told to end when all that are to stay are ready. Called at every turn."""
        self._outdated.intersection_update(self.WORKERS)
        self._leaving.intersection_update(self.WORKERS)
        staying = [pid for pid in self.WORKERS if pid not in self._leaving]
        former = [pid for pid in staying if pid in self._outdated]
        if former and len(staying) > self.cfg.workers and all(map(self._snapshots.has, staying)):
            told = former.pop(0)
            self._leaving.add(told)
            self.kill_worker(told, signal.SIGTERM)
        # gunicorn's own bookkeeping sends nobody away and replaces nobody who is leaving.
        self.num_workers = max(self.cfg.workers + len(self._leaving) + bool(former), len(self.WORKERS))
        if not former and not self._leaving:
            self.num_workers = self.cfg.workers
            _log.info("workers.replaced", workers=sorted(self.WORKERS))


class Server(BaseApplication):  # type: ignore[misc] # ships no types
    """gunicorn, configured by our settings and nothing else: no gunicorn file, no GUNICORN_CMD_ARGS."""

    def __init__(self, start: Start) -> None:
        """Remember the settings; the parent's constructor asks for them right away."""
        self._start = start
        self._shared: Shared | None = None
        super().__init__()

    def load_config(self) -> None:
        """Hand gunicorn its settings."""
        http = self._start.settings.http
        for name, value in {
            "bind": http.bind,
            "workers": config.workers(http),
            "worker_class": "responder.worker.Worker",
            "keepalive": http.keep_alive,
            "timeout": _WORKER_TIMEOUT,
            "graceful_timeout": _WORKER_TIMEOUT,
            "proc_name": "ocsp-responder",
            "logger_class": _QuietLogger,
            # Signals are all that commands this process: no control socket, where gunicorn has one.
            "control_socket_disable": True,
        }.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Responder:
        """Return the application; gunicorn asks for it in each worker."""
        if self._shared is None:
            raise RuntimeError("there is nothing to load before run()")
        return Responder(self._start, self._shared)

    def take_over(self) -> bool:
        """Read the settings file again, and tell whether it will do; a file with a fault in it changes nothing."""
        try:
            start = read_start(self._start.path)
            self._check_same_addresses(start)
        except SettingsError as exc:
            _log.error("settings.refused", detail=str(exc), meaning="the former settings go on")
            return False
        self._start = start
        self.do_load_config()
        logs.configure(start.settings.log.level, process="ocsp-responder")
        _log.info("settings.taken_over", file=str(start.path), workers=self.cfg.workers)
        return True

    def _check_same_addresses(self, start: Start) -> None:
        """Raise SettingsError where another address is asked for: that takes new sockets, and so a new master."""
        for key, former, now in (
            ("[http] bind", self._start.settings.http.bind, start.settings.http.bind),
            ("[private] bind", self._start.settings.private.bind, start.settings.private.bind),
        ):
            if former != now:
                raise SettingsError(f"{start.path}: {key}: {now!r} takes a restart; {former!r} is in use")

    def run(self) -> None:
        """Run until SIGTERM. Raises SettingsError where the private address cannot be listened on."""
        master = os.getpid()
        private = private_listener(self._start.settings.private.bind, path=self._start.path)
        self._shared = Shared(Snapshots.create(), private)
        try:
            _Arbiter(self, self._shared).run()
        finally:
            # Workers are forks of this very frame, and leave through it too.
            if os.getpid() == master:
                self._shared.snapshots.remove()
