# SPDX-License-Identifier: MIT
"""Make the certificates in tls/, which the topic `tls` is tried with.

    python3 tests/contract/certificates.py

Each file but ca.pem holds a key and the certificates that a server shows with it.  The
keys are for tests alone and no secret: they stand in the repository.  They need
`cryptography`, and the runner does not: so the files are kept.
"""

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

TLS = Path(__file__).resolve().parent / "tls"
BEGIN = datetime.datetime(2020, 1, 1)
END, PAST = datetime.datetime(2120, 1, 1), datetime.datetime(2021, 1, 1)
LOCAL = (x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))


def named(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def certificate(subject, key, issuer, names=(), end=END):
    """Return a certificate; issuer: (name, key).  Without *names* it is a CA's."""
    builder = x509.CertificateBuilder(
        issuer[0], named(subject), key.public_key(), x509.random_serial_number(),
        BEGIN, end)
    builder = builder.add_extension(
        x509.BasicConstraints(ca=not names, path_length=None), critical=True)
    builder = builder.add_extension(
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer[1].public_key()),
        critical=False)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
    else:  # without it a strict client takes an authority for none
        builder = builder.add_extension(x509.KeyUsage(
            *[False] * 5, key_cert_sign=True, crl_sign=True, encipher_only=False,
            decipher_only=False), critical=True)
    return builder.sign(issuer[1], hashes.SHA256())


def main():
    TLS.mkdir(exist_ok=True)
    keys = {name: ec.generate_private_key(ec.SECP256R1())
            for name in ("ca", "other-ca", "server")}
    ours, other, own = (
        (named(f"hook-io's {name} for tests"), keys[name]) for name in keys)
    pem = serialization.Encoding.PEM
    key = keys["server"].private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    authority = certificate("hook-io's ca for tests", keys["ca"], ours)
    (TLS / "ca.pem").write_bytes(authority.public_bytes(pem))
    #: file -> issuer, names, end
    for name, (issuer, names, end) in {
        "good": (ours, LOCAL, END),
        "other-host": (ours, (x509.DNSName("other.example"),), END),
        "expired": (ours, LOCAL, PAST),
        "unknown-ca": (other, LOCAL, END),
        "self-signed": (own, LOCAL, END),
    }.items():
        made = certificate("hook-io's server for tests", keys["server"], issuer,
                           names, end)
        (TLS / f"{name}.pem").write_bytes(key + made.public_bytes(pem))


if __name__ == "__main__":
    main()
