# SPDX-License-Identifier: Apache-2.0
"""The reconciler's settings and its command: one line for whatever is wrong, and never a traceback."""

import base64
import os
import socket
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from demo.log import Log
from reconciler.config import load_settings
from responder.runtime.settings import DSN_VARIABLE, SettingsError

KEY = Log().key_b64
P384 = base64.b64encode(
    ec.generate_private_key(ec.SECP384R1()).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
).decode()


def log_table(**changes: object) -> str:
    """Return a [[ct_log]] table that is right but for the changes; None leaves a key out, numbers go unquoted."""
    values = {"name": "log", "kind": "static", "monitoring_url": "http://127.0.0.1:1/", "key": KEY} | changes
    lines = [
        f"{key} = {str(value).lower() if isinstance(value, int) else repr(value)}"
        for key, value in values.items()
        if value is not None
    ]
    return "\n".join(["[[ct_log]]", *lines, ""])


RFC = {"kind": "rfc6962", "monitoring_url": None, "url": "http://127.0.0.1:1"}
SPOOL = "[[issuance]]\nkind = 'spool'\nname = 'spool'\ndirectory = '/x'\n"

REFUSED = [
    (log_table(name=None), "ct_log[0]: object missing required field `name`"),
    (log_table(kind="tiled"), "kind: invalid enum value 'tiled'; allowed: 'static', 'rfc6962'"),
    (log_table(start="yesterday"), "start: invalid enum value 'yesterday'; allowed: 'now', 'beginning', a number"),
    (log_table(start=-1), "[ct_log[0]] start: expected `int` >= 0"),
    (log_table(start=True), "[ct_log[0]] start: expected"),
    (log_table(url="http://127.0.0.1:1"), '[ct_log[0]] monitoring_url: a log of kind = "static" has'),
    (log_table(monitoring_url=None), "[ct_log[0]] monitoring_url: a log of kind"),
    (log_table(**RFC | {"monitoring_url": "http://127.0.0.1:1"}), '[ct_log[0]] url: a log of kind = "rfc6962" has url'),
    (log_table(monitoring_url="127.0.0.1:8080"), "'127.0.0.1:8080' is not an http or https URL"),
    (log_table(monitoring_url="ftp://127.0.0.1/"), "is not an http or https URL"),
    (log_table(monitoring_url="http://[::1/"), "is not an http or https URL"),
    (log_table(monitoring_url="http://127.0.0.1:99999/"), "is not an http or https URL"),
    (log_table(monitoring_url="http://127.0.0.1/?a=b"), "is not an http or https URL without user, query and fragment"),
    (log_table(monitoring_url="https://log.example/2026h1/"), "log.example is not a loopback address, so [ct] contact"),
    (log_table(monitoring_url="http://192.0.2.1/"), "192.0.2.1 is not a loopback address"),
    (log_table(key="nonsense!"), "[ct_log[0]] key: the key is not in base64"),
    (log_table(key="AAAA"), "[ct_log[0]] key: this is no public key"),
    (log_table(key=P384), "[ct_log[0]] key: a log signs with P-256, or with RSA of at least 2048 bits"),
    (log_table(stale_after="0s"), "[ct_log[0]] stale_after: a duration of nought"),
    (log_table(merge_delay="0h"), "[ct_log[0]] merge_delay: a duration of nought"),
    (log_table(origni="x"), "[ct_log[0]] origni: no such key; allowed here: key, kind, merge_delay"),
    (log_table() + log_table(**RFC), "name: two sources are called 'log'; each needs a name of its own"),
    (log_table(name="spool") + SPOOL, "name: two sources are called 'spool'"),
    (log_table(name="ocsp-admin"), "name: 'ocsp-admin' is the name of what people register by hand"),
    ('[[ct_log]]\nname = "a\\u0000b"\n' + log_table(name=None).partition("\n")[2], "characters that cannot be printed"),
    ("[ct]\npoll = '0s'\n", "[ct] poll: a duration of nought"),
    (SPOOL + "poll = '0s'\n", "[issuance[0]] poll: a duration of nought"),
    ("[[issuance]]\nkind = 'syslog'\n", "[issuance[0]] kind: invalid value 'syslog'; allowed: jsonl, spool"),
    ("[metrics]\nbind = 'nonsense'\n", "[metrics] bind: 'nonsense' is not an address with a port"),
    ("[metrics]\nbind = '127.0.0.1:99999'\n", "[metrics] bind: '127.0.0.1:99999' is not an address with a port"),
    ("[log]\nlevel = 'loud'\n", "[log] level: invalid enum value 'loud'; allowed: 'debug', 'info', 'warning', 'error'"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "complaint"), REFUSED)
def test_each_fault_has_its_one_clear_line(text: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "reconciler.toml"
    path.write_text(text)
    with pytest.raises(SettingsError) as refused:
        load_settings(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert complaint in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1:8080", "[::1]:8080", "localhost"])
def test_logs_on_loopback_need_no_contact(host: str, tmp_path: Path) -> None:
    path = tmp_path / "reconciler.toml"
    path.write_text(log_table(monitoring_url=f"http://{host}/"))
    assert load_settings(path).ct.contact == ""


def test_with_a_contact_any_log_may_be_asked(tmp_path: Path) -> None:
    path = tmp_path / "reconciler.toml"
    path.write_text("[ct]\ncontact = 'pki@ca.example'\n" + log_table(monitoring_url="https://log.example/x/"))
    assert load_settings(path).ct_log[0].start == "now"


# ------------------------------------------------------------------------------------------------------ the command


def command(*arguments: str | Path, dsn: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != DSN_VARIABLE}
    if dsn is not None:
        environment[DSN_VARIABLE] = dsn
    program = [sys.executable, "-c", "from reconciler.cli import main; main()", *map(str, arguments)]
    return subprocess.run(program, env=environment, capture_output=True, text=True, timeout=30, check=False)


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line that the command ends with, after making sure that it is all there is."""
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("ocsp-reconciler: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "reconciler.toml"
    path.write_text(log_table())
    return path


def test_check_config_reads_the_settings_and_needs_no_database(config: Path) -> None:
    done = command("--config", config, "check-config", dsn="dbname=nowhere")
    assert (done.returncode, done.stdout, done.stderr) == (0, "log: static, every 0:00:10\n", "")
    config.write_text("[ct]\npool = '10s'\n")
    assert "[ct] pool: no such key; allowed here: contact, orphan_after, poll" in one_line(
        command("--config", config, "check-config", dsn=None)
    )


def test_without_settings_or_dsn_there_is_one_line(config: Path, tmp_path: Path) -> None:
    assert "nothing.toml: cannot be read" in one_line(command("--config", tmp_path / "nothing.toml", "once", dsn=None))
    assert "[database] dsn is not set" in one_line(command("--config", config, "once", dsn=None))


@pytest.mark.parametrize("what", ["once", "run", "status"])
def test_an_unreachable_database_is_told_at_once_and_in_its_own_words(what: str, config: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        line = one_line(command("--config", config, what, dsn=f"host=127.0.0.1 port={port} dbname=x user=x"))
    assert "Connection refused" in line
    assert str(port) in line


@pytest.mark.parametrize(
    ("dsn", "why"), [("nonsense", 'missing "="'), ("hots=x", "hots"), ("host=/nowhere", "/nowhere")]
)
def test_a_dsn_that_leads_nowhere_is_told(dsn: str, why: str, config: Path) -> None:
    assert why in one_line(command("--config", config, "once", dsn=dsn))


def test_a_database_without_the_schema_is_told_what_to_run(config: Path, empty_dsn: str) -> None:
    assert "run `ocsp-admin migrate`" in one_line(command("--config", config, "once", dsn=empty_dsn))


def test_a_database_newer_than_the_code_is_refused(config: Path, dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("INSERT INTO ocsp.migration (version, name, sha256) VALUES (9999, 'of_the_future', '')")
    assert "newer than the code; upgrade foundling" in one_line(command("--config", config, "once", dsn=dsn))


def test_a_metrics_address_that_is_taken_is_told(config: Path, dsn: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config.write_text(f"[metrics]\nbind = '127.0.0.1:{taken.getsockname()[1]}'\n")
        line = one_line(command("--config", config, "run", dsn=dsn))
    assert "[metrics] bind: 127.0.0.1:" in line
    assert "in use" in line


def test_an_issuer_that_cannot_be_read_is_told(config: Path, dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "WITH i AS (INSERT INTO ocsp.issuer (name, spki, spki_sha256, key_sha1, key_sha256, key_sha384, key_sha512,"
            " validity_seconds, refresh_seconds, max_age_seconds, unassigned, unknown_validity_seconds) SELECT 'bad',"
            " 's', sha256('s'), substr(sha256('s'), 1, 20), sha256('s'), substr(sha512('s'), 1, 48), sha512('s'), 9, 8,"
            " 7, 'unknown', 6 RETURNING issuer_id) INSERT INTO ocsp.issuer_certificate SELECT sha256('x'), issuer_id,"
            " 'x', '', substr(sha256('s'), 1, 20), sha256('s'), substr(sha512('s'), 1, 48), sha512('s') FROM i"
        )
    done = command("--config", config, "once", dsn=dsn)
    assert done.returncode == 1
    assert "ocsp-reconciler: not a certificate that can be read" in done.stderr
    assert "Traceback" not in done.stderr
