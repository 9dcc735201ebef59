# SPDX-License-Identifier: Apache-2.0
"""Issuers by every name the world has for them: one key under several certificates, one name with several keys."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509 import ocsp

from demo.ca import Authority, make_key
from responder.runtime.db import Database, DatabaseRefused
from responder.status import issuer_store
from responder.status.issuers import CaCertificate, IssuerError, IssuerSet
from tests import served

ALGORITHMS = {"sha1": hashes.SHA1(), "sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}  # noqa: S303 - RFC 6960 clients send it


def cert_id(authority: Authority, algorithm: str) -> tuple[bytes, bytes]:
    """Return the two hashes of a CertID as cryptography makes them."""
    leaf = authority.issue("a.example", key=authority.key)
    found = ocsp.OCSPRequestBuilder().add_certificate(leaf, authority.certificate, ALGORITHMS[algorithm]).build()
    return found.issuer_name_hash, found.issuer_key_hash


@pytest.fixture(scope="module")
def family() -> dict[str, Authority]:
    """One key under two names and two issuers, one name with two keys, and a stranger."""
    root = Authority.create("Root")
    old = Authority.create("CA 1", issuer=root)
    return {
        "old": old,
        "crossed": Authority.create("CA 1", key=old.key, issuer=Authority.create("Other root")),
        "renamed": Authority.create("CA 1 bis", key=old.key),
        "rekeyed": Authority.create("CA 1", issuer=root, key="p384"),
        "stranger": Authority.create("Stranger"),
    }


@pytest.fixture(scope="module")
def issuers(family: dict[str, Authority]) -> IssuerSet:
    load = {name: served.ca_certificate(each) for name, each in family.items()}
    return IssuerSet(
        [
            served.issuer_of(1, "first key", load["old"], load["crossed"], load["renamed"]),
            served.issuer_of(2, "second key", load["rekeyed"]),
        ]
    )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("name", "number"), [("old", 1), ("crossed", 1), ("renamed", 1), ("rekeyed", 2), ("stranger", None)]
)
def test_an_issuer_is_found_by_the_cert_id_of_any_of_its_certificates(
    algorithm: str, name: str, number: int | None, family: dict[str, Authority], issuers: IssuerSet
) -> None:
    found = issuers.by_cert_id(algorithm, *cert_id(family[name], algorithm))
    assert (None if found is None else found.issuer_id) == number


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_both_hashes_must_name_the_same_issuer(
    algorithm: str, family: dict[str, Authority], issuers: IssuerSet
) -> None:
    ids = {name: cert_id(each, algorithm) for name, each in family.items()}
    # The second key under the first key's other name, and either half with a stranger's.
    assert issuers.by_cert_id(algorithm, ids["renamed"][0], ids["rekeyed"][1]) is None
    assert issuers.by_cert_id(algorithm, ids["old"][0], ids["stranger"][1]) is None
    assert issuers.by_cert_id(algorithm, ids["stranger"][0], ids["old"][1]) is None
    other = next(each for each in ALGORITHMS if each != algorithm)
    assert issuers.by_cert_id(other, *ids["old"]) is None


def test_the_hash_of_transparency_names_the_key_and_a_name_may_have_several(
    family: dict[str, Authority], issuers: IssuerSet
) -> None:
    assert {issuers.by_key_hash(family[name].spki_sha256) for name in ("old", "crossed", "renamed")} == {
        issuers.by_id(1)
    }
    assert issuers.by_key_hash(family["rekeyed"].spki_sha256) is issuers.by_id(2)
    assert issuers.by_key_hash(family["stranger"].spki_sha256) is None
    name = family["old"].certificate.subject.public_bytes()
    assert [issuer.issuer_id for issuer, _ in issuers.by_name(name)] == [1, 2]
    assert issuers.key_hashes == {family["old"].spki_sha256, family["rekeyed"].spki_sha256}
    assert len(issuers.names) == 2


async def test_issuers_come_back_from_the_database_as_they_went_in(
    database: Database, family: dict[str, Authority], issuers: IssuerSet
) -> None:
    load = {name: served.ca_certificate(each) for name, each in family.items()}
    first = await served.serve(database, "first key", load["old"], load["crossed"], load["renamed"])
    async with database.connection() as connection:
        before = await issuer_store.generation(connection)
    second = await served.serve(database, "second key", load["rekeyed"], public=False)
    found = await served.served(database)
    assert [(each.issuer_id, each.name, each.public) for each in found.all] == [
        (first, "first key", True), (second, "second key", False),
    ]  # fmt: skip
    assert [set(each.certificates) for each in found.all] == [set(each.certificates) for each in issuers.all]
    assert found.all[0].policy == served.POLICY
    async with database.connection() as connection:
        assert await issuer_store.generation(connection) > before
        assert not await issuer_store.insert_issuer_certificate(connection, first, load["old"])
        assert await issuer_store.find_issuer_by_key(connection, load["renamed"].spki_sha256) == (first, "first key")
        assert await issuer_store.issuer_names(connection) == ("first key", "second key")


async def test_one_key_is_one_issuer(database: Database, family: dict[str, Authority]) -> None:
    await served.serve(database, "first key", served.ca_certificate(family["old"]))
    with pytest.raises(DatabaseRefused) as refused:
        await served.serve(database, "once more", served.ca_certificate(family["renamed"]))
    assert refused.value.constraint == "issuer_spki_sha256_key"


def test_what_is_no_ca_certificate_is_refused_with_the_reason() -> None:
    ca = Authority.create("CA")
    leaf = served.der(ca.issue("a.example"))
    whole = served.der(ca.certificate)
    at = whole.index(b"\xa0\x03\x02\x01\x02")
    unknown_version = whole[: at + 4] + b"\x05" + whole[at + 5 :]
    # The curve's OID replaced by one that nobody knows.
    unknown_key = whole.replace(bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06082a8648ce3d03017f"))
    with pytest.raises(IssuerError, match="say that it is no CA"):
        CaCertificate.load(leaf)
    for data in (b"", b"-----BEGIN CERTIFICATE-----\n", whole + b"\0", unknown_version, unknown_key):
        with pytest.raises(IssuerError, match="not a certificate that can be read"):
            CaCertificate.load(data)


def test_der_and_pem_are_the_same_certificate() -> None:
    ca = Authority.create("CA", key=make_key("rsa2048"))
    assert CaCertificate.load(ca.pem()) == CaCertificate.load(served.der(ca.certificate))
    assert CaCertificate.load(ca.pem()).parsed == x509.load_pem_x509_certificate(ca.pem())
