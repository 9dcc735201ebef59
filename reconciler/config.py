# SPDX-License-Identifier: Apache-2.0
"""The reconciler's settings: /etc/foundling/reconciler.toml, table by table. Constructing them does nothing else.

The comments are the reference; docs/settings.md repeats them and a test holds the two together.
"""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import msgspec

from reconciler.ct.head import LogKey
from reconciler.errors import UnusableKey
from responder.runtime.settings import DatabaseSettings, Duration, LogSettings, Section, SettingsError, load

# The source under which ocsp-admin records; sql/migrations/0001 enters it.
_REGISTRATION: Final = "ocsp-admin"
_HIGHEST_PORT: Final = 65535
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]


class CtSettings(Section, frozen=True, kw_only=True):
    """[ct]"""

    #: How log operators reach you: a mail address or a page. Sent in the User-Agent; logs slow down or refuse clients
    #: without. May be absent only while every log is on a loopback address.
    contact: str = ""
    #: How often each log is asked for a new head.
    poll: Duration = Duration(seconds=10)
    #: A certificate that a log has shown for this long, and no issuance record of yours, is reported as an orphan. It
    #: is answered `good` from the moment it is found; this is how long your own records may lag.
    orphan_after: Duration = Duration(minutes=5)


class CtLogSettings(Section, frozen=True, kw_only=True):
    """[[ct_log]]: a log that is watched, and by default one that `unknown` waits for."""

    #: Your name for the log, unique among all sources. Its position is kept under it.
    name: _Name
    #: "static" (C2SP static-ct-api) or "rfc6962".
    kind: Literal["static", "rfc6962"]
    #: static: the monitoring prefix.
    monitoring_url: str = ""
    #: rfc6962: the log's URL, without /ct/v1.
    url: str = ""
    #: The log's public key, base64 of the DER SubjectPublicKeyInfo, as log lists print it.
    key: str
    #: static: what the checkpoint's first line must say. Default: whatever it says, as the key binds it.
    origin: str | None = None
    #: Where to begin when the log is followed for the first time: "now", "beginning", or an index.
    start: Literal["now", "beginning"] | Annotated[int, msgspec.Meta(ge=0)] = "now"
    #: Whether a stale log turns `unknown` into tryLater. False for logs you do not submit to.
    required: bool = True
    #: The log is stale when nothing was verified for this long.
    stale_after: Duration = Duration(minutes=15)
    #: The log's maximum merge delay: a head older than this no longer vouches for the present.
    merge_delay: Duration = Duration(hours=24)


class IssuanceSettings(Section, frozen=True, kw_only=True, tag_field="kind"):
    """[[issuance]]: a record of the CA's own of what it issued."""

    #: Your name for the source, unique among all sources. What is done is kept under it.
    name: _Name
    #: Whether a stale source turns `unknown` into tryLater.
    required: bool = True
    #: The source is stale when it could not be read to its end for this long.
    stale_after: Duration = Duration(minutes=15)
    #: How often the source is read.
    poll: Duration = Duration(seconds=2)


class SpoolSection(IssuanceSettings, frozen=True, kw_only=True, tag="spool"):
    """[[issuance]] kind = "spool": a directory of DER or PEM files, one or more certificates each."""

    #: The directory. It must exist; a missing one is a stale source.
    directory: str
    #: Endings of the names that are read, in any case. Other files are left alone.
    suffixes: tuple[str, ...] = (".der", ".pem", ".crt", ".cer")
    #: "record" leaves finished files where they are; "rename" takes them out of the way after the commit.
    done: Literal["record", "rename"] = "record"
    #: rename: the directory that finished files move into. Default: they stay, with ".done" added to the name.
    done_directory: str | None = None
    #: A file younger than this that cannot be parsed waits for the next pass: it may still be being written.
    settle: Duration = Duration(seconds=10)
    #: A larger file is quarantined by its beginning.
    most_octets: Annotated[int, msgspec.Meta(ge=1)] = 1024 * 1024


class JsonlSection(IssuanceSettings, frozen=True, kw_only=True, tag="jsonl"):
    """[[issuance]] kind = "jsonl": a growing file, one JSON object a line; rotation and truncation are followed."""

    #: The file. It must exist; a missing one is a stale source.
    path: str
    #: The member with the certificate or precertificate; dots lead into objects: "response.data.certificate".
    certificate_field: str
    #: How that member is written: "base64" (of DER), "hex" (of DER) or "pem". Never guessed.
    encoding: Literal["base64", "hex", "pem"]
    #: Members and the values they must have for a line to count as an issuance: { event = "issued" }. Default: every
    #: line counts.
    where: dict[str, str | int | bool] = msgspec.field(default_factory=dict)
    #: Patterns for the names that older generations get, in the same directory. Default: the file's name followed by a
    #: dot or a dash and anything.
    rotated: tuple[str, ...] = ()
    #: A rotated file is finished once it has been quiet for so long: its writer may still hold it open.
    settle: Duration = Duration(seconds=60)
    #: A longer line is quarantined by its beginning.
    most_octets: Annotated[int, msgspec.Meta(ge=1)] = 1024 * 1024


class MetricsSettings(Section, frozen=True, kw_only=True):
    """[metrics]"""

    #: Where Prometheus finds this process's metrics, "127.0.0.1:9464" for example. Empty: nowhere.
    bind: str = ""


class Settings(Section, frozen=True, kw_only=True):
    """The whole file."""

    database: DatabaseSettings = DatabaseSettings()
    ct: CtSettings = CtSettings()
    ct_log: tuple[CtLogSettings, ...] = ()
    issuance: tuple[SpoolSection | JsonlSection, ...] = ()
    metrics: MetricsSettings = MetricsSettings()
    log: LogSettings = LogSettings()


def load_settings(path: Path) -> Settings:
    """Read the settings file and check what one table alone cannot. Raises SettingsError."""
    settings = load(path, Settings)
    _check_names([each.name for each in (*settings.ct_log, *settings.issuance)], path)
    _check_positive(settings.ct.poll, f"{path}: [ct] poll")
    for number, log in enumerate(settings.ct_log):
        _check_log(log, f"{path}: [ct_log[{number}]]", contact=settings.ct.contact)
    for number, record in enumerate(settings.issuance):
        _check_positive(record.poll, f"{path}: [issuance[{number}]] poll")
        _check_positive(record.stale_after, f"{path}: [issuance[{number}]] stale_after")
    if settings.metrics.bind and metrics_address(settings.metrics) is None:
        raise SettingsError(
            f'{path}: [metrics] bind: {settings.metrics.bind!r} is not an address with a port, such as "127.0.0.1:9464"'
        )
    return settings


def base_url(log: CtLogSettings) -> str:
    """Return where the log is read: the monitoring prefix of a static log, the URL of the other kind."""
    return log.monitoring_url if log.kind == "static" else log.url


def metrics_address(metrics: MetricsSettings) -> tuple[str, int] | None:
    """Return host and port of [metrics] bind, or None where it does not name both."""
    host, _, port = metrics.bind.rpartition(":")
    if not host or re.fullmatch("[0-9]{1,5}", port) is None or int(port) > _HIGHEST_PORT:
        return None
    return host.strip("[]"), int(port)


def _check_names(names: list[str], path: Path) -> None:
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise SettingsError(f"{path}: name: two sources are called {doubled[0]!r}; each needs a name of its own")
    for name in names:
        if name == _REGISTRATION:
            raise SettingsError(f"{path}: name: {name!r} is the name of what people register by hand; choose another")
        if not name.isprintable():
            raise SettingsError(f"{path}: name: {name!r} has characters that cannot be printed")


def _check_positive(duration: Duration, where: str) -> None:
    if not duration:
        raise SettingsError(f'{where}: a duration of nought; say for example "10s"')


def _check_log(log: CtLogSettings, where: str, *, contact: str) -> None:
    key, other = ("monitoring_url", "url") if log.kind == "static" else ("url", "monitoring_url")
    if not base_url(log) or getattr(log, other):
        raise SettingsError(f'{where} {key}: a log of kind = "{log.kind}" has {key}, and no {other}')
    host = _host(base_url(log))
    if host is None:
        raise SettingsError(
            f"{where} {key}: {base_url(log)!r} is not an http or https URL without user, query and fragment"
        )
    if not contact and not _is_loopback(host):
        raise SettingsError(
            f"{where} {key}: {host} is not a loopback address, so [ct] contact must say how to reach you"
        )
    try:
        LogKey.from_base64(log.key)
    except UnusableKey as exc:
        raise SettingsError(f"{where} key: {exc}") from exc
    _check_positive(log.stale_after, f"{where} stale_after")
    _check_positive(log.merge_delay, f"{where} merge_delay")


def _host(url: str) -> str | None:
    """Return the host of a URL that a log can be read at, or None."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return None
    extra = parts.query or parts.fragment or parts.username is not None
    return host if parts.scheme in {"http", "https"} and not extra else None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
