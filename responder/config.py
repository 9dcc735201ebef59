# SPDX-License-Identifier: Apache-2.0
"""The responder's settings: /etc/foundling/responder.toml, table by table. Constructing them does nothing else.

The comments are the reference; docs/settings.md repeats them and a test holds the two together.
"""

import os
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
import psycopg
from psycopg import conninfo

from responder.runtime.settings import DatabaseSettings, Duration, LogSettings, Section, SettingsError, load

# The feed remembers changes for two minutes, for look-ups that began before them.
_LEAST_DEADLINE: Final = timedelta(milliseconds=100)
_MOST_DEADLINE: Final = timedelta(seconds=60)


class PrimaryAndReplica(DatabaseSettings, frozen=True, kw_only=True):
    """[database]"""

    #: A streaming replica near this host, as libpq understands it: certificates it knows are looked up there, and all
    #: others on the primary. It must name one server. See docs/replicas.md.
    replica_dsn: str = ""


class HttpSettings(Section, frozen=True, kw_only=True):
    """[http]"""

    #: Where to listen: "127.0.0.1:8080", "[::1]:8080" or "unix:/run/foundling/ocsp.sock". A socket passed by systemd
    #: wins over it.
    bind: str = "127.0.0.1:8080"
    #: Worker processes; 0 means one for each core. Each keeps its own answers in memory.
    workers: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 0
    #: The path that certificates' OCSP pointers have after the host, such as "/ocsp". Requests below "/" are answered
    #: too.
    prefix: str = ""
    #: The most octets a request may have; a larger one is malformedRequest, unread.
    most_request_octets: Annotated[int, msgspec.Meta(ge=128, le=1024 * 1024)] = 10_000
    #: Seconds that an idle connection is kept open for its next request.
    keep_alive: Annotated[int, msgspec.Meta(ge=0, le=3600)] = 75
    #: How long an answer may take; a later one is tryLater. Ten seconds is what BR 4.10.2 allows under normal load.
    deadline: Duration = Duration(seconds=5)
    #: The most requests a worker works on at once that no answer in memory is for; those beyond are tryLater at once.
    most_in_flight: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1000


class CacheSettings(Section, frozen=True, kw_only=True):
    """[cache]"""

    #: The most signed answers a worker keeps. One takes about 3 kB, and 10 kB at most.
    most_answers: Annotated[int, msgspec.Meta(ge=0)] = 50_000


class SigningSettings(Section, frozen=True, kw_only=True):
    """[signing]"""

    #: A file with the passphrase of encrypted signer keys. Default: the systemd credential `signer-passphrase`, where
    #: there is one.
    passphrase_file: str = ""
    #: A file with the PIN of tokens whose URI has no pin-source. Default: the systemd credential `signer-pin`, where
    #: there is one.
    pin_file: str = ""
    #: Signatures that a worker asks of one key on a token at a time, each through a process and a session of its own.
    sessions: Annotated[int, msgspec.Meta(ge=1, le=64)] = 2
    #: Requests of a worker that may wait for one key on a token. What comes on top is answered tryLater at once.
    most_waiting: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 256
    #: How long a token may take for a signature before the session is given up and opened anew.
    token_timeout: Duration = Duration(seconds=2)


class AuditSettings(Section, frozen=True, kw_only=True):
    """[audit]"""

    #: Whether every signed response is written down (BR 5.4.1), in bundles of up to a hundred, twice a second.
    signatures: bool = True
    #: The file it is appended to, as JSON lines. Empty: standard error, among the lines of the log.
    file: str = ""
    #: Whether nothing is signed, and clients are told to try later, while it cannot be written. Otherwise answers go on
    #: and wait to be written down, up to 100,000 in each worker.
    required: bool = False


class ResponderLogSettings(LogSettings, frozen=True, kw_only=True):
    """[log]"""

    #: The share of requests of which each has a line: 0.01 is every hundredth, at random. The level must be "info" or
    #: "debug". Each line holds the request, and so the serial that was asked for.
    requests: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] = 0.0
    #: Whether those lines say who asked. Behind a proxy that is the proxy.
    client_addresses: bool = False


class PrivateSettings(Section, frozen=True, kw_only=True):
    """[private]"""

    #: Where /healthz, /readyz and /metrics are: "127.0.0.1:9690" or "unix:/run/foundling/private.sock". Empty: nowhere.
    #: A socket that systemd passes under the name `private` wins over it.
    bind: str = ""
    #: While this file is there, /readyz says 503 so that balancers send no more requests; those that come are answered.
    drain_file: str = "/etc/foundling/drain"


class PresignedSettings(Section, frozen=True, kw_only=True):
    """[presigned]"""

    #: When an answer that `ocsp-responder presign` has stored is sent: "when-signer-fails" (the key cannot be used, or
    #: has too much to do; until nextUpdate), "first" (before signing, until it is due to be signed anew) or "never".
    use: Literal["never", "when-signer-fails", "first"] = "when-signer-fails"
    #: Which certificates are kept signed ahead: "all", or those "asked" for lately, which makes responders note those.
    keep: Literal["all", "asked"] = "all"
    #: How lately, for "asked". Responders note a certificate about once an hour.
    asked_within: Duration = Duration(days=7)
    #: The hashes of CertIDs that are answered for. Nearly all clients send "sha1"; "sha256" beside it takes as much
    #: space again.
    hashes: Annotated[tuple[Literal["sha1", "sha256"], ...], msgspec.Meta(min_length=1)] = ("sha1",)
    #: How long before its refresh time an answer is signed anew, but at most a quarter of the time it has.
    lead: Duration = Duration(hours=2)
    #: The time between two passes over everything, for `presign --watch`. What changes is signed at once.
    every: Duration = Duration(minutes=15)
    #: Processes that sign ahead; 0 means one for each core.
    workers: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 0


class Settings(Section, frozen=True, kw_only=True):
    """The whole file."""

    database: PrimaryAndReplica = PrimaryAndReplica()
    http: HttpSettings = HttpSettings()
    cache: CacheSettings = CacheSettings()
    signing: SigningSettings = SigningSettings()
    private: PrivateSettings = PrivateSettings()
    audit: AuditSettings = AuditSettings()
    presigned: PresignedSettings = PresignedSettings()
    log: ResponderLogSettings = ResponderLogSettings()


def load_settings(path: Path) -> Settings:
    """Read the settings file. Raises SettingsError."""
    settings = load(path, Settings)
    if not _LEAST_DEADLINE <= settings.http.deadline <= _MOST_DEADLINE:
        raise SettingsError(f'{path}: [http] deadline: allowed: "100ms" to "60s"')
    return settings


def to_primary(dsn: str) -> str:
    """Return the DSN with the demand that the server be the primary: of several hosts, libpq takes the one that is."""
    try:
        return conninfo.make_conninfo(dsn, target_session_attrs="primary")
    except psycopg.ProgrammingError:
        return dsn  # Whoever connects with it says what is wrong.


def check_audit(settings: AuditSettings, *, path: Path) -> None:
    """Raise SettingsError where the audit log's file could not be written. Creates none: this may be somebody else."""
    if not settings.signatures or not settings.file:
        return
    file = Path(settings.file)
    wanted = file if file.exists() else file.parent
    if file.is_dir() or not wanted.exists() or not os.access(wanted, os.W_OK):
        raise SettingsError(f"{path}: [audit] file: {file} cannot be written")


def workers(settings: HttpSettings) -> int:
    """Return how many worker processes to run."""
    return settings.workers or os.cpu_count() or 1


def passphrase(settings: SigningSettings, *, path: Path) -> bytes | None:
    """Return the passphrase of the signers' keys, if one is configured. Raises SettingsError when it cannot be read."""
    return _secret("passphrase_file", settings.passphrase_file, credential="signer-passphrase", path=path)


def pin(settings: SigningSettings, *, path: Path) -> bytes | None:
    """Return the PIN of the signers' tokens, if one is configured. Raises SettingsError when it cannot be read."""
    return _secret("pin_file", settings.pin_file, credential="signer-pin", path=path)


def _secret(key: str, named: str, *, credential: str, path: Path) -> bytes | None:
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    file = Path(named) if named else None
    if file is None and credentials is not None and (Path(credentials) / credential).exists():
        file = Path(credentials) / credential
    if file is None:
        return None
    try:
        return file.read_bytes().rstrip(b"\r\n")
    except OSError as exc:
        raise SettingsError(f"{path}: [signing] {key}: {file}: {exc.strerror}") from exc
