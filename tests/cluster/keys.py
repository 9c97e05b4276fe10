"""The control plane's certificate and keys, made anew each time."""

from __future__ import annotations

import datetime
import ipaddress
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from pathlib import Path


def make_serving_certificate(certificate: Path, key: Path, names: list[str]) -> None:
    """A server's certificate for some names and addresses that vouches for itself."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kube-apiserver")])
    certificate.write_bytes(_vouching_for_itself(_new_key(key), subject, [_general_name(name) for name in names]))


def make_client_certificate(certificate: Path, key: Path) -> None:
    """An administrator's certificate that vouches for itself, by which the API server tells the kubelet who it is."""
    organization = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:masters")
    subject = x509.Name([organization, x509.NameAttribute(NameOID.COMMON_NAME, "apiserver")])
    certificate.write_bytes(_vouching_for_itself(_new_key(key), subject, []))


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _vouching_for_itself(secret: ec.EllipticCurvePrivateKey, name: x509.Name, names: list[x509.GeneralName]) -> bytes:
    now = datetime.datetime.now(datetime.UTC)
    usage = x509.KeyUsage(True, False, False, False, False, True, False, False, False)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(secret.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(secret.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(secret.public_key()), critical=False)
    )
    if names:
        made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return made.sign(secret, hashes.SHA256()).public_bytes(Encoding.PEM)


def make_signing_keys(secret: Path, public: Path) -> None:
    """The pair that signs service accounts' tokens, and checks them."""
    key = _new_key(secret)
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def _new_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(ec.SECP256R1())
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    return key
