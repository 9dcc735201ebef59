# SPDX-License-Identifier: Apache-2.0
"""Is this answer right? The cryptography library's reading of it, before its speed counts for anything.

Pure; imports nothing of the product, so that it can bear witness against it. Called by answers.py.
"""

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509 import ocsp


def judge_good(body: bytes, *, signer: x509.Certificate, serial: int) -> None:
    """Check that this is a successful OCSPResponse, good for the serial, signed by the signer. Raises ValueError."""
    response = ocsp.load_der_ocsp_response(body)
    if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
        raise ValueError(f"the answer was {response.response_status.name}")
    if response.certificate_status is not ocsp.OCSPCertStatus.GOOD:
        raise ValueError(f"the answer was {response.certificate_status.name}")
    if response.serial_number != serial:
        raise ValueError("the answer is about another serial")
    digest = response.signature_hash_algorithm
    key = signer.public_key()
    try:
        match key:
            case ec.EllipticCurvePublicKey() if digest is not None:
                key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(digest))
            case rsa.RSAPublicKey() if digest is not None:
                key.verify(response.signature, response.tbs_response_bytes, padding.PKCS1v15(), digest)
            case _:
                raise ValueError("the signer has a key of a kind that is not measured")
    except InvalidSignature as exc:
        raise ValueError("the signature does not verify") from exc
