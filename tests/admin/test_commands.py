# SPDX-License-Identifier: Apache-2.0
"""ocsp-admin as people use it: what it does, what it refuses in one line, and what a script can read of it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from admin.cli import main
from demo.ca import Authority, write_certificates, write_key

Said = tuple[int, str, str]


@dataclass(frozen=True)
class Desk:
    """A settings file, a CA with a signer in files, and the command."""

    folder: Path
    dsn: str
    ca: Authority
    run: Callable[..., Said]

    def ok(self, *arguments: str | Path) -> str:
        code, out, err = self.run(*arguments)
        assert (code, err) == (0, ""), err
        return out

    def refused(self, *arguments: str | Path) -> str:
        """Run a command that is refused: exit 1, and one line that says why."""
        code, out, err = self.run(*arguments)
        assert code == 1, (out, err)
        (line,) = err.splitlines()
        assert line.startswith("ocsp-admin: ")
        return line

    def misused(self, *arguments: str | Path) -> str:
        code, _, err = self.run(*arguments)
        assert code == 2
        return err

    def add(self, *more: str) -> str:
        return self.ok(
            "issuer", "add", "ca", "--cert", self.folder / "ca.pem", "--signer-cert", self.folder / "signer.pem",
            "--signer-key", self.folder / "signer.key", *more,
        )  # fmt: skip

    def issue(self, serial: int | None = None, **times: Any) -> Path:
        made = self.ca.issue("www.example", serial=serial, **times)
        return write_certificates(self.folder / f"{made.serial_number:x}.der", made)

    def show(self, serial: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ok("cert", "show", "--issuer", "ca", serial, "--json"))
        return found


@pytest.fixture
def desk(dsn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.delenv("OCSP_DATABASE_DSN", raising=False)
    settings = tmp_path / "admin.toml"
    settings.write_text(f"[database]\ndsn = {json.dumps(dsn)}\n")
    ca = Authority.create("Desk CA")
    certificate, key = ca.issue_responder()
    write_certificates(tmp_path / "ca.pem", ca.certificate)
    write_certificates(tmp_path / "signer.pem", certificate)
    write_key(tmp_path / "signer.key", key)

    def run(*arguments: str | Path) -> Said:
        with pytest.raises(SystemExit) as left:
            main(["--config", str(settings), "--actor", "alice", *map(str, arguments)])
        said = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return left.value.code, said.out, said.err

    return Desk(tmp_path, dsn, ca, run)


def test_migrate_applies_what_is_missing_and_repeats_harmlessly(desk: Desk, empty_dsn: str) -> None:
    (desk.folder / "admin.toml").write_text(f"[database]\ndsn = {json.dumps(empty_dsn)}\n")
    assert "run `ocsp-admin migrate`" in desk.refused("issuer", "list")
    assert desk.ok("migrate").startswith("applied 0001_")
    assert desk.ok("migrate") == "nothing to apply: the schema is up to date\n"
    assert desk.ok("migrate", "--no-roles") == "nothing to apply: the schema is up to date\n"


def test_an_issuer_is_added_once_and_listed(desk: Desk) -> None:
    desk.add()
    (listed,) = json.loads(desk.ok("issuer", "list", "--json"))["issuers"]
    assert (listed["name"], listed["public"], listed["direct_signing"]) == ("ca", True, False)
    assert listed["subjects"] == ["CN=Desk CA"]
    assert listed["policy"] == {
        "validity_seconds": 345600, "refresh_seconds": 129600, "max_age_seconds": 3600,
        "unknown_validity_seconds": 600, "unassigned": "unknown", "nonce": "off", "archive_cutoff_seconds": None,
        "retention_seconds": None, "require_signed": False,
    }  # fmt: skip
    assert listed["signer"]["key_location"] == f"file:{(desk.folder / 'signer.key').resolve()}"
    assert desk.ok("issuer", "list").startswith("ca: public, signer until ")
    assert "this key is issuer 'ca' already" in desk.refused("issuer", "add", "b", "--cert", desk.folder / "ca.pem")
    other = write_certificates(desk.folder / "other.pem", Authority.create("Other").certificate)
    assert "with another key already" in desk.refused("issuer", "add", "ca", "--cert", other)


def test_an_issuer_without_signer_is_ingest_only(desk: Desk) -> None:
    assert "ingest-only" in desk.ok("issuer", "add", "ca", "--cert", desk.folder / "ca.pem")
    assert "ingest-only" in desk.ok("issuer", "list")


def test_one_more_certificate_of_the_key_is_added_once_and_another_key_refused(desk: Desk) -> None:
    desk.add()
    again = Authority.create("Desk CA, renewed", key=desk.ca.key)
    renewed = write_certificates(desk.folder / "renewed.der", again.certificate)
    assert "one more certificate" in desk.ok("issuer", "add-certificate", "ca", "--cert", renewed)
    assert "was there already" in desk.ok("issuer", "add-certificate", "ca", "--cert", renewed)
    other = write_certificates(desk.folder / "other.pem", Authority.create("Desk CA").certificate)
    assert "is not that of issuer 'ca'" in desk.refused("issuer", "add-certificate", "ca", "--cert", other)


def test_a_policy_is_changed_within_the_rules_and_refused_naming_the_rule_outside(desk: Desk) -> None:
    desk.add()
    assert "validity 3 days" in desk.ok("issuer", "set", "ca", "--validity", "3d", "--refresh", "24h")
    (listed,) = json.loads(desk.ok("issuer", "list", "--json"))["issuers"]
    assert (listed["policy"]["validity_seconds"], listed["policy"]["refresh_seconds"]) == (259200, 86400)
    for options, rule in (
        (("--validity", "11d"), "BR 4.9.9"),
        (("--validity", "7h", "--refresh", "2h"), "BR 4.9.9"),
        (("--refresh", "60h"), "Microsoft 3.2.2"),
        (("--unknown-validity", "16m"), "BR 4.9.9, fifteen minutes"),
        (("--unassigned", "extended-revoke"), "BR 7.2.2"),
        (("--max-age", "25h"), "RFC 9919 7.2"),
        (("--signed-requests", "required"), "BR 4.9.9"),
        (("--retention", "86399s"), "BR 4.10.1"),
        (("--retention", "30d", "--archive-cutoff", "31d"), "RFC 6960 4.4.4"),
    ):
        assert rule in desk.refused("issuer", "set", "ca", *options)
    (after,) = json.loads(desk.ok("issuer", "list", "--json"))["issuers"]
    assert after == listed
    assert "a duration is a number and a unit" in desk.misused("issuer", "set", "ca", "--validity", "96")
    assert "or forever" in desk.misused("issuer", "set", "ca", "--retention", "off")
    assert "neither ignored nor required" in desk.misused("issuer", "set", "ca", "--signed-requests", "yes")
    assert "there is no issuer 'cb'; known: ca" in desk.refused("issuer", "set", "cb", "--validity", "3d")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"no_check": False}, "lacks ocsp-nocheck"),
        ({"days": 0.01}, "ended at"),
        ({"extended": None}, "not exactly OCSPSigning"),
    ],
)
def test_a_signer_that_may_not_sign_is_refused_and_nothing_is_stored(
    desk: Desk, change: dict[str, Any], words: str
) -> None:
    certificate, key = desk.ca.issue_responder(**change)
    write_certificates(desk.folder / "signer.pem", certificate)
    write_key(desk.folder / "signer.key", key)
    paths = (desk.folder / "ca.pem", desk.folder / "signer.pem", desk.folder / "signer.key")
    command = ("issuer", "add", "ca", "--cert", paths[0], "--signer-cert", paths[1])
    assert "belong together" in desk.refused(*command)
    assert words in desk.refused(*command, "--signer-key", paths[2])
    assert json.loads(desk.ok("issuer", "list", "--json")) == {"issuers": []}


SPELLINGS = ["00ab12CD", "ab:12:cd", "AB12CD", "0xab12cd", "0000ab12cd", " ab 12 cd "]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_a_serial_names_the_same_certificate(desk: Desk, spelling: str) -> None:
    desk.add()
    desk.ok("cert", "register", "--issuer", "ca", desk.issue(0xAB12CD))
    assert desk.show(spelling)["serial"] == "ab12cd"


@pytest.mark.parametrize("spelling", ["", "xyz", "0", "00:00", "-1", "1_0", "1" * 200])
def test_what_is_no_serial_is_refused(desk: Desk, spelling: str) -> None:
    desk.add()
    assert "serial" in desk.refused("cert", "show", "--issuer", "ca", "--", spelling)


def test_certificates_are_registered_from_der_pem_and_bundles_and_twice_harmlessly(desk: Desk) -> None:
    desk.add()
    precertificate = desk.ca.precertificate("pre.example", serial=0x11)
    final = desk.ca.certificate_from(precertificate)
    other = desk.ca.issue("other.example", serial=0x22)
    bundle = write_certificates(desk.folder / "bundle.pem", precertificate, final, other)
    said = desk.ok("cert", "register", "--issuer", "ca", bundle, desk.issue(0x33)).splitlines()
    assert said == [
        "11: precertificate, registered", "11: certificate, registered", "22: certificate, registered",
        "33: certificate, registered",
    ]  # fmt: skip
    assert all(
        line.endswith("known already")
        for line in desk.ok("cert", "register", "--issuer", "ca", bundle).split("\n")[:-1]
    )
    shown = desk.show("11")
    assert shown["status"] == "good"
    assert sorted(each["document"] for each in shown["sightings"]) == ["certificate", "precertificate"]
    assert {each["source"] for each in shown["sightings"]} == {"ocsp-admin"}
    assert {each["file"] for each in shown["sightings"]} == {str(bundle)}
    (change,) = shown["changes"]
    assert (change["from"], change["to"], change["actor"]) == (None, "good", "alice")
    assert "11: good" in desk.ok("cert", "show", "--issuer", "ca", "11")


def test_what_is_not_proven_to_be_the_issuers_is_refused_and_nothing_of_the_call_is_kept(desk: Desk) -> None:
    desk.add()
    foreign = write_certificates(desk.folder / "foreign.der", Authority.create("Else").issue("x.example"))
    forged = write_certificates(desk.folder / "forged.der", Authority.create("Desk CA").issue("x.example"))
    second = Authority.create("Second CA")
    desk.ok("issuer", "add", "second", "--cert", write_certificates(desk.folder / "second.pem", second.certificate))
    seconds = write_certificates(desk.folder / "seconds.der", second.issue("x.example"))
    nonsense, nothing = desk.folder / "nonsense.pem", desk.folder / "absent.der"
    nonsense.write_text("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n")
    good = desk.issue(0x44)
    for bad in (foreign, forged, seconds, nonsense, nothing, desk.folder):
        assert str(bad) in desk.refused("cert", "register", "--issuer", "ca", good, bad)
    assert "signed by another issuer than 'ca'" in desk.refused("cert", "register", "--issuer", "ca", seconds)
    assert desk.run("cert", "show", "--issuer", "ca", "44", "--json")[0] == 1


def test_an_unknown_certificate_is_shown_as_unknown_and_exits_1(desk: Desk) -> None:
    desk.add()
    code, out, _ = desk.run("cert", "show", "--issuer", "ca", "77", "--json")
    assert (code, json.loads(out)["status"]) == (1, "unknown")


def test_a_serial_is_reserved_once_and_shown_as_pending_until_it_is_signed(desk: Desk) -> None:
    desk.add()
    assert desk.ok("cert", "reserve", "--issuer", "ca", "55") == "55: reserved\n"
    assert desk.ok("cert", "reserve", "--issuer", "ca", "55") == "55: was reserved already\n"
    assert desk.show("55")["status"] == "pending"
    desk.ok("cert", "register", "--issuer", "ca", desk.issue(0x55))
    assert desk.show("55")["status"] == "good"


def revoke(serial: str, reason: str, *more: str) -> tuple[str, ...]:
    return ("cert", "revoke", "--issuer", "ca", serial, "--reason", reason, *more)


def test_revoking_is_recorded_with_its_actor_and_repeating_it_changes_nothing(desk: Desk) -> None:
    desk.add()
    desk.ok("cert", "register", "--issuer", "ca", desk.issue(0x66))
    first = desk.ok(*revoke("66", "KEYcompromise"))
    assert "66: revoked at " in first
    assert desk.ok(*revoke("66", "keyCompromise")) == first
    shown = desk.show("66")
    assert (shown["status"], shown["reason"]) == ("revoked", "keyCompromise")
    assert [(each["from"], each["to"], each["actor"]) for each in shown["changes"]] == [
        (None, "good", "alice"), ("good", "revoked", "alice"),
    ]  # fmt: skip


def test_time_and_reason_of_a_revocation_change_only_when_that_is_said(desk: Desk) -> None:
    desk.add()
    desk.ok("cert", "register", "--issuer", "ca", desk.issue(0x66))
    desk.ok(*revoke("66", "superseded"))
    assert "--correct" in desk.refused(*revoke("66", "keyCompromise"))
    earlier = (datetime.now(UTC) - timedelta(hours=5)).replace(microsecond=0)
    assert "--correct" in desk.refused(*revoke("66", "superseded", "--at", earlier.isoformat()))
    desk.ok(*revoke("66", "keyCompromise", "--at", earlier.isoformat(), "--correct"))
    shown = desk.show("66")
    assert (shown["reason"], shown["revoked_at"]) == ("keyCompromise", earlier.isoformat().replace("+00:00", "Z"))


def test_what_must_not_be_revoked_is_refused(desk: Desk) -> None:
    desk.add()
    desk.ok("cert", "register", "--issuer", "ca", desk.issue(0x66))
    desk.ok("cert", "reserve", "--issuer", "ca", "67")
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert "lies in the future" in desk.refused(*revoke("66", "superseded", "--at", later))
    assert "register it first" in desk.refused(*revoke("99", "superseded"))
    desk.refused(*revoke("67", "superseded"))
    assert "BR 7.2.2" in desk.refused(*revoke("66", "certificateHold"))
    assert "BR 7.2.2" in desk.refused(*revoke("66", "aACompromise"))
    desk.refused(*revoke("66", "removeFromCRL"))
    assert "keyCompromise" in desk.misused(*revoke("66", "boredom"))
    assert "not a time with its zone" in desk.misused(*revoke("66", "superseded", "--at", "2026-01-01T00:00:00"))
    assert "known: ca" in desk.refused("cert", "revoke", "--issuer", "cb", "66", "--reason", "superseded")
    assert desk.show("66")["status"] == "good"


def test_a_private_issuer_may_hold(desk: Desk) -> None:
    desk.add("--private", "--unassigned", "extended-revoke")
    desk.ok("cert", "register", "--issuer", "ca", desk.issue(0x66))
    desk.ok(*revoke("66", "certificateHold"))
    assert desk.show("66")["reason"] == "certificateHold"


def test_a_source_is_excluded_included_and_trusted_by_name(desk: Desk) -> None:
    with psycopg.connect(desk.dsn, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO ocsp.source (name, kind, required, distrusted_at, distrust_reason)"
            " VALUES ('log', 'static', true, now(), 'fork')"
        )
        assert "excluded by alice: gone" in desk.ok("source", "exclude", "log", "--reason", "gone")
        assert "required again" in desk.ok("source", "include", "log")
        desk.refused("source", "include", "log")
        assert "trusted again" in desk.ok("source", "trust", "log")
        desk.refused("source", "trust", "log")
        assert "no source 'lgo'" in desk.refused("source", "exclude", "lgo", "--reason", "gone")
        found = connection.execute("SELECT actor, what FROM ocsp.source_change ORDER BY change_id DESC LIMIT 3")
        assert [row[0] for row in found] == ["alice"] * 3


def test_an_unreachable_database_and_bad_settings_are_told_in_one_line(desk: Desk) -> None:
    settings = desk.folder / "admin.toml"
    settings.write_text('[database]\ndsn = "host=127.0.0.1 port=1"\n')
    desk.refused("issuer", "list")
    settings.write_text("[database]\ndns = 1\n")
    assert "[database] dns: no such key; allowed here: dsn" in desk.refused("issuer", "list")
    settings.unlink()
    assert "No such file" in desk.refused("issuer", "list")


def test_unreadable_files_are_refused_by_name(desk: Desk) -> None:
    absent = desk.folder / "absent.pem"
    assert str(absent) in desk.refused("issuer", "add", "ca", "--cert", absent)
    assert "no CA" in desk.refused("issuer", "add", "ca", "--cert", desk.issue(0x1))
