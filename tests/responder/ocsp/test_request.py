# SPDX-License-Identifier: Apache-2.0
"""The parser of requests: what is read, what is refused and as what, and that two other parsers agree."""

import base64
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import cryptography_vectors
import pytest
from asn1crypto import algos as asn1_algos
from asn1crypto import core as asn1_core
from asn1crypto import ocsp as asn1_ocsp
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp
from hypothesis import given
from hypothesis import strategies as st

from responder.errors import MalformedRequest, Refusal, Unauthorized
from responder.ocsp.request import CertId, OcspRequest, parse_request
from responder.status import der

NAME, KEY = bytes(range(20)), bytes(range(20, 40))
SHA1 = bytes.fromhex("300906052b0e03021a0500")
SHA256 = bytes.fromhex("300d06096086480165030402010500")
NONCE = bytes.fromhex("06092b0601050507300102")
CRITICAL = bytes.fromhex("0101ff")
SIGNATURE = bytes.fromhex("300d06092a864886f70d01010b0500") + bytes.fromhex("03020000")

# RFC 9919 appendix B.4: the request for the end-entity certificate of appendix B.2.
RFC_9919_REQUEST = base64.b64decode(
    "MGEwXzBdMFswWTANBglghkgBZQMEAgEFAAQgOplGd1aAc6cHv95QGGNF5M1hNNsIXrqh0QQl8DtvCOoEIEdKbKMB8j3J9/cHhwThx/X8lucWdfbtiC56"
    "tlw/WEVDAgQBqvAN"
)


def seq(*parts: bytes) -> bytes:
    return der.wrap(der.SEQUENCE, *parts)


def octets(value: bytes) -> bytes:
    return der.wrap(der.OCTET_STRING, value)


def explicit(number: int, *parts: bytes) -> bytes:
    return der.wrap(0xA0 + number, *parts)


def cert_id(*, algorithm: bytes = SHA1, name: bytes = NAME, key: bytes = KEY, serial: bytes = b"\x05") -> bytes:
    return seq(algorithm, octets(name), octets(key), der.wrap(der.INTEGER, serial))


def extension(oid: bytes, value: bytes, *, flag: bytes = b"") -> bytes:
    return seq(oid, flag, octets(value))


def request(
    *singles: bytes, version: bytes = b"", name: bytes = b"", extensions: bytes = b"", signature: bytes = b""
) -> bytes:
    listed = seq(*(singles if len(singles) > 0 else (seq(cert_id()),)))
    return seq(seq(version, name, listed, extensions), signature)


def with_nonce(value: bytes) -> bytes:
    return request(extensions=explicit(2, seq(extension(NONCE, value))))


PLAIN = request()
OTHER_OID = bytes.fromhex("06032a0304")


def test_the_request_of_rfc_9919_is_read() -> None:
    parsed = parse_request(RFC_9919_REQUEST)
    assert parsed == OcspRequest(
        (
            CertId(
                RFC_9919_REQUEST[8:],
                "sha256",
                bytes.fromhex("3a994677568073a707bfde50186345e4cd6134db085ebaa1d10425f03b6f08ea"),
                bytes.fromhex("474a6ca301f23dc9f7f7078704e1c7f5fc96e71675f6ed882e7ab65c3f584543"),
                27979789,
            ),
        ),
        None,
        signed=False,
    )


ACCEPTED: dict[str, bytes] = {
    "as it is usually sent": PLAIN,
    "version 0 written out": request(version=explicit(0, bytes.fromhex("020100"))),
    "requestorName without a signature": request(name=explicit(1, der.wrap(0x82, b"client.example"))),
    "signed": request(signature=explicit(0, seq(SIGNATURE))),
    "signed, with certificates": request(signature=explicit(0, seq(SIGNATURE, explicit(0, seq())))),
    "hash parameters absent": request(seq(cert_id(algorithm=SHA1.replace(b"\x30\x09", b"\x30\x07")[:-2]))),
    "an extension nobody knows, not critical": request(extensions=explicit(2, seq(extension(OTHER_OID, b"x")))),
    "critical FALSE written out": request(
        extensions=explicit(2, seq(extension(OTHER_OID, b"x", flag=bytes.fromhex("010100"))))
    ),
    "no extensions in the list of them": request(extensions=explicit(2, seq())),
    "critical acceptable responses": request(
        extensions=explicit(2, seq(extension(bytes.fromhex("06092b0601050507300104"), b"\x30\x00", flag=CRITICAL)))
    ),
    "critical service locator for one certificate": request(
        seq(
            cert_id(),
            explicit(0, seq(extension(bytes.fromhex("06092b0601050507300107"), b"\x30\x00", flag=CRITICAL))),
        )
    ),
    "critical preferred signature algorithms": request(
        extensions=explicit(2, seq(extension(bytes.fromhex("06092b0601050507300108"), b"\x30\x00", flag=CRITICAL)))
    ),
}


@pytest.mark.parametrize("data", ACCEPTED.values(), ids=ACCEPTED)
def test_a_lawful_request_is_read(data: bytes) -> None:
    parsed = parse_request(data)
    only = parsed.cert_ids[0]
    assert len(parsed.cert_ids) == 1
    assert (only.hash_name, only.name_hash, only.key_hash, only.serial) == ("sha1", NAME, KEY, 5)
    assert only.raw in data
    assert parsed.nonce is None
    assert parsed.signed is (SIGNATURE in data)


def wrong_tag(data: bytes, at: int, tag: int) -> bytes:
    return data[:at] + bytes((tag,)) + data[at + 1 :]


MALFORMED: dict[str, tuple[bytes, Refusal]] = {
    "nothing": (b"", Refusal.SYNTAX),
    "one octet": (b"\x30", Refusal.SYNTAX),
    "an octet too many": (PLAIN + b"\x00", Refusal.SYNTAX),
    "an octet too few": (PLAIN[:-1], Refusal.SYNTAX),
    "indefinite length": (b"\x30\x80" + PLAIN[2:] + b"\x00\x00", Refusal.SYNTAX),
    "a length longer than it need be": (b"\x30\x81" + PLAIN[1:], Refusal.SYNTAX),
    "a SET for the outermost": (wrong_tag(PLAIN, 0, der.SET), Refusal.SYNTAX),
    "a SET for tbsRequest": (wrong_tag(PLAIN, 2, der.SET), Refusal.SYNTAX),
    "a SET for requestList": (wrong_tag(PLAIN, 4, der.SET), Refusal.SYNTAX),
    "a SET for a Request": (wrong_tag(PLAIN, 6, der.SET), Refusal.SYNTAX),
    "a SET for a CertID": (wrong_tag(PLAIN, 8, der.SET), Refusal.SYNTAX),
    "a SET for the hash algorithm": (wrong_tag(PLAIN, 10, der.SET), Refusal.SYNTAX),
    "a constructed OCTET STRING": (wrong_tag(PLAIN, 21, 0x24), Refusal.SYNTAX),
    "an ENUMERATED for the serial": (wrong_tag(PLAIN, len(PLAIN) - 3, der.ENUMERATED), Refusal.SYNTAX),
    "a serial without octets": (request(seq(cert_id(serial=b""))), Refusal.SYNTAX),
    "octets after the serial": (request(seq(seq(cert_id()[2:], b"\x05\x00"))), Refusal.SYNTAX),
    "an OID without octets": (request(seq(cert_id(algorithm=bytes.fromhex("30020600")))), Refusal.SYNTAX),
    "an OID that is cut off": (
        request(seq(cert_id(algorithm=bytes.fromhex("300306012b")[:-1] + b"\xab"))),
        Refusal.SYNTAX,
    ),
    "hash parameters of another kind": (
        request(seq(cert_id(algorithm=bytes.fromhex("300906052b0e03021a3000")))),
        Refusal.SYNTAX,
    ),
    "two hash parameters": (request(seq(cert_id(algorithm=bytes.fromhex("300706012a05000500")))), Refusal.SYNTAX),
    "version v2": (request(version=explicit(0, bytes.fromhex("020101"))), Refusal.VERSION),
    "version -1": (request(version=explicit(0, bytes.fromhex("0201ff"))), Refusal.VERSION),
    "an empty version": (request(version=explicit(0)), Refusal.VERSION),
    "no certificate": (seq(seq(seq())), Refusal.EMPTY),
    "no requestList": (seq(seq()), Refusal.SYNTAX),
    "requestorName that is no GeneralName": (request(name=explicit(1, seq())), Refusal.SYNTAX),
    "extensions under the wrong number": (request(extensions=explicit(3, seq())), Refusal.SYNTAX),
    "something after the extensions": (request(extensions=explicit(2, seq()) + b"\x05\x00"), Refusal.SYNTAX),
    "two lists of extensions": (request(extensions=explicit(2, seq(), seq())), Refusal.SYNTAX),
    "extensions that are no SEQUENCE": (request(extensions=explicit(2, der.wrap(der.SET))), Refusal.SYNTAX),
    "an extension that is no SEQUENCE": (request(extensions=explicit(2, seq(b"\x05\x00"))), Refusal.SYNTAX),
    "an extension without a value": (request(extensions=explicit(2, seq(seq(OTHER_OID)))), Refusal.SYNTAX),
    "an extension with something after its value": (
        request(extensions=explicit(2, seq(seq(OTHER_OID, octets(b""), b"\x05\x00")))),
        Refusal.SYNTAX,
    ),
    "a critical flag of 1": (
        request(extensions=explicit(2, seq(extension(OTHER_OID, b"", flag=bytes.fromhex("010101"))))),
        Refusal.SYNTAX,
    ),
    "the same extension twice": (
        request(extensions=explicit(2, seq(extension(OTHER_OID, b""), extension(OTHER_OID, b"")))),
        Refusal.SYNTAX,
    ),
    "a signature that is none": (request(signature=explicit(0, seq())), Refusal.SYNTAX),
    "a signature without its tag": (request(signature=seq(SIGNATURE)), Refusal.SYNTAX),
    "a signature that is a SET": (request(signature=explicit(0, der.wrap(der.SET, SIGNATURE))), Refusal.SYNTAX),
    "something after the signature": (request(signature=explicit(0, seq(SIGNATURE)) + b"\x05\x00"), Refusal.SYNTAX),
    "certificates of the signature that are a SET": (
        request(signature=explicit(0, seq(SIGNATURE, explicit(0, der.wrap(der.SET))))),
        Refusal.SYNTAX,
    ),
    "a name hash too short for SHA-1": (request(seq(cert_id(name=NAME[:-1]))), Refusal.HASH_LENGTH),
    "a key hash too long for SHA-1": (request(seq(cert_id(key=KEY + b"x"))), Refusal.HASH_LENGTH),
    "SHA-1 hashes called SHA-256": (request(seq(cert_id(algorithm=SHA256))), Refusal.HASH_LENGTH),
    "a nonce of 0 octets": (with_nonce(octets(b"")), Refusal.NONCE_LENGTH),
    "a nonce of 129 octets": (with_nonce(octets(bytes(129))), Refusal.NONCE_LENGTH),
    "a raw nonce of 0 octets": (with_nonce(b""), Refusal.NONCE_LENGTH),
    "a raw nonce of 129 octets": (with_nonce(b"\xff" * 129), Refusal.NONCE_LENGTH),
}


@pytest.mark.parametrize(("data", "refusal"), MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_request_is_malformed(data: bytes, refusal: Refusal) -> None:
    with pytest.raises(MalformedRequest) as caught:
        parse_request(data)
    assert caught.value.reason is refusal


@pytest.mark.parametrize("where", ["of the request", "of one certificate"])
def test_a_critical_extension_not_known_is_unauthorized(where: str) -> None:
    unknown = seq(extension(OTHER_OID, b"", flag=CRITICAL))
    data = (
        request(extensions=explicit(2, unknown))
        if where == "of the request"
        else request(seq(cert_id(), explicit(0, unknown)))
    )
    with pytest.raises(Unauthorized) as caught:
        parse_request(data)
    assert caught.value.reason is Refusal.CRITICAL_EXTENSION


def test_more_certificates_than_the_cap_are_unauthorized() -> None:
    single = seq(cert_id())
    assert len(parse_request(request(*[single] * 32)).cert_ids) == 32
    with pytest.raises(Unauthorized) as caught:
        parse_request(request(*[single] * 33))
    assert caught.value.reason is Refusal.TOO_MANY
    assert len(parse_request(request(*[single] * 2), most_certificates=2).cert_ids) == 2
    with pytest.raises(Unauthorized):
        parse_request(request(*[single] * 3), most_certificates=2)


@pytest.mark.parametrize("length", [1, 15, 16, 32, 33, 128])
def test_a_nonce_of_a_lawful_length_is_read(length: int) -> None:
    assert parse_request(with_nonce(octets(b"n" * length))).nonce == b"n" * length


@pytest.mark.parametrize("value", [b"n" * 16, b"\x04\x05nope", octets(b"n") + b"x"])
def test_a_nonce_without_its_octet_string_is_left_aside(value: bytes) -> None:
    assert parse_request(with_nonce(value)).nonce is None


@pytest.mark.parametrize(
    ("serial", "number"),
    [(b"\x00", 0), (b"\xff", -1), (b"\x80", -128), (b"\x00\x80", 128), (b"\x7f" * 64, int.from_bytes(b"\x7f" * 64))],
)
def test_serials_that_are_never_ours_are_read_all_the_same(serial: bytes, number: int) -> None:
    parsed = parse_request(request(seq(cert_id(serial=serial)))).cert_ids[0]
    assert parsed.serial == number
    assert parsed.raw == cert_id(serial=serial)


@pytest.mark.parametrize(
    ("padded", "shortest"),
    [(b"\x00\x05", b"\x05"), (b"\x00\x00\x00\x80", b"\x00\x80"), (b"\xff\xff\x80", b"\x80"), (b"\x00\x00", b"\x00")],
)
def test_a_padded_serial_is_read_and_echoed_without_padding(padded: bytes, shortest: bytes) -> None:
    parsed = parse_request(request(seq(cert_id(serial=padded)))).cert_ids[0]
    assert parsed.serial == int.from_bytes(padded, signed=True)
    assert parsed.raw == cert_id(serial=shortest)


def test_duplicate_cert_ids_are_all_kept_in_order() -> None:
    first, second = seq(cert_id(serial=b"\x01")), seq(cert_id(serial=b"\x02"))
    parsed = parse_request(request(first, second, first))
    assert [each.serial for each in parsed.cert_ids] == [1, 2, 1]


VECTORS = Path(cryptography_vectors.__file__).parent / "x509" / "ocsp"
UNKNOWN_HASH = "a hash we do not know"
OUTCOMES: dict[str, Refusal | str | int] = {
    "ocsp-army.inapplicable-req.der": 1,
    "ocsp-army.revoked-req.der": 233902,
    "ocsp-army.valid-req.der": 233901,
    "req-acceptable-responses.der": 304583375948731073774349032019171743279,
    "req-duplicate-ext.der": Refusal.SYNTAX,
    "req-ext-nonce.der": 2238508373096059399630658340676916584,
    "req-ext-unknown-oid.der": 2238508373096059399630658340676916584,
    "req-invalid-hash-alg.der": UNKNOWN_HASH,
    "req-invalid-version.der": Refusal.VERSION,
    "req-multi-sha1.der": 872625873161273451176241581705670534707360122361,
    "req-sha1.der": 872625873161273451176241581705670534707360122361,
}


def test_every_request_among_the_vectors_has_an_outcome_here() -> None:
    found = {path.name for path in VECTORS.iterdir() if "req" in path.name and not path.name.startswith("resp-")}
    assert found == set(OUTCOMES)


@pytest.mark.parametrize(("file", "outcome"), OUTCOMES.items())
def test_each_request_vector_has_its_outcome(file: str, outcome: Refusal | str | int) -> None:
    data = (VECTORS / file).read_bytes()
    if isinstance(outcome, Refusal):
        with pytest.raises(MalformedRequest) as caught:
            parse_request(data)
        assert caught.value.reason is outcome
    elif outcome == UNKNOWN_HASH:
        assert parse_request(data).cert_ids[0].hash_name is None
    else:
        parsed = parse_request(data)
        assert parsed.cert_ids[0].serial == outcome
        assert len(parsed.cert_ids) == (2 if "multi" in file else 1)
        expected = bytes.fromhex("7b805a1d3726b8b84f48d2f8bfd72dfd") if "nonce" in file else None
        assert parsed.nonce == expected


@pytest.mark.parametrize("file", sorted(path.name for path in VECTORS.iterdir() if path.name.startswith("resp-")))
def test_a_response_is_no_request(file: str) -> None:
    with pytest.raises(MalformedRequest):
        parse_request((VECTORS / file).read_bytes())


ALGORITHMS: dict[str, tuple[Callable[[], hashes.HashAlgorithm], int]] = {
    "sha1": (hashes.SHA1, 20),
    "sha256": (hashes.SHA256, 32),
    "sha384": (hashes.SHA384, 48),
    "sha512": (hashes.SHA512, 64),
}


@st.composite
def asked(draw: st.DrawFn, least: int = -(2**200)) -> tuple[str, bytes, bytes, int]:
    hash_name = draw(st.sampled_from(sorted(ALGORITHMS)))
    length = ALGORITHMS[hash_name][1]
    hashed = st.binary(min_size=length, max_size=length)
    return hash_name, draw(hashed), draw(hashed), draw(st.integers(min_value=least, max_value=2**200))


@given(values=asked(least=0), nonce=st.none() | st.binary(min_size=1, max_size=128))
def test_what_cryptography_builds_is_read_alike(values: tuple[str, bytes, bytes, int], nonce: bytes | None) -> None:
    hash_name, name, key, serial = values
    builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(name, key, serial, ALGORITHMS[hash_name][0]())
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    built = builder.build()
    parsed = parse_request(built.public_bytes(serialization.Encoding.DER))
    only = parsed.cert_ids[0]
    assert (only.hash_name, only.name_hash, only.key_hash, only.serial) == (
        built.hash_algorithm.name,
        built.issuer_name_hash,
        built.issuer_key_hash,
        built.serial_number,
    )
    assert parsed.nonce == nonce


@given(several=st.lists(asked(), min_size=1, max_size=5), nonce=st.none() | st.binary(min_size=1, max_size=128))
def test_what_asn1crypto_builds_is_read_alike_down_to_the_slices(
    several: list[tuple[str, bytes, bytes, int]], nonce: bytes | None
) -> None:
    tbs = asn1_ocsp.TBSRequest(
        {
            "request_list": [
                {
                    "req_cert": {
                        "hash_algorithm": asn1_algos.DigestAlgorithm({"algorithm": hash_name}),
                        "issuer_name_hash": name,
                        "issuer_key_hash": key,
                        "serial_number": serial,
                    }
                }
                for hash_name, name, key, serial in several
            ]
        }
    )
    if nonce is not None:
        tbs["request_extensions"] = [{"extn_id": "nonce", "extn_value": asn1_core.OctetString(nonce)}]
    built = asn1_ocsp.OCSPRequest({"tbs_request": tbs})
    parsed = parse_request(built.dump())
    assert [(each.hash_name, each.name_hash, each.key_hash, each.serial) for each in parsed.cert_ids] == several
    assert [each.raw for each in parsed.cert_ids] == [
        each["req_cert"].dump() for each in built["tbs_request"]["request_list"]
    ]
    assert parsed.nonce == nonce


@given(data=st.binary(max_size=300))
def test_arbitrary_octets_raise_nothing_but_refusals(data: bytes) -> None:
    with suppress(MalformedRequest, Unauthorized):
        parse_request(data)


RICH = request(
    seq(cert_id(), explicit(0, seq(extension(OTHER_OID, b"x")))),
    seq(cert_id(algorithm=SHA256, name=bytes(32), key=bytes(32))),
    version=explicit(0, bytes.fromhex("020100")),
    name=explicit(1, der.wrap(0x82, b"client.example")),
    extensions=explicit(2, seq(extension(NONCE, octets(b"n" * 16)))),
    signature=explicit(0, seq(SIGNATURE, explicit(0, seq()))),
)


@given(at=st.integers(0, len(RICH) - 1), octet=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_request_raises_nothing_but_refusals(at: int, octet: int, cut: bool) -> None:
    damaged = RICH[:at] if cut else RICH[:at] + bytes((octet,)) + RICH[at + 1 :]
    with suppress(MalformedRequest, Unauthorized):
        parse_request(damaged)


@given(at=st.integers(0, len(RFC_9919_REQUEST) - 1), octet=st.integers(0, 255))
def test_what_cryptography_accepts_of_a_damaged_request_is_read_alike(at: int, octet: int) -> None:
    damaged = RFC_9919_REQUEST[:at] + bytes((octet,)) + RFC_9919_REQUEST[at + 1 :]
    try:
        read = ocsp.load_der_ocsp_request(damaged)
        expected = (read.hash_algorithm.name, read.issuer_name_hash, read.issuer_key_hash, read.serial_number)
    except Exception:  # noqa: BLE001 - whatever it objects to, there is nothing to compare then
        return
    try:
        only = parse_request(damaged).cert_ids[0]
    except MalformedRequest as refusal:
        assert refusal.reason is Refusal.HASH_LENGTH  # noqa: PT017 - the one check that it leaves to the caller
        return
    hash_name = expected[0] if only.hash_name is not None else None
    assert (only.hash_name, only.name_hash, only.key_hash, only.serial) == (hash_name, *expected[1:])
