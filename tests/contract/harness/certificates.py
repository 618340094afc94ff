"""A certificate authority for one test, and the files of a client that talks to its servers."""

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from support.ports import LOOPBACK

DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM files."""

    cert: Path
    key: Path


class Authority:
    """Signs certificates; `ca` is its own certificate's file."""

    def __init__(self, directory):
        directory.mkdir(parents=True)
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("test authority")
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        signed = _builder(self._name, self._name, self._key).add_extension(constraints, critical=True)
        self.ca = directory / "ca.crt"
        self.ca.write_bytes(_pem(signed.sign(self._key, hashes.SHA256())))

    def issue(self, common_name, file_name=None, names=(LOOPBACK, "localhost")):
        """A new key and certificate; with `file_name` it replaces an earlier pair of that name.

        Args:
            names: the addresses and DNS names that the certificate is for.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = x509.SubjectAlternativeName([_alternative(name) for name in names])
        signed = _builder(_name(common_name), self._name, key).add_extension(alternatives, critical=False)
        stem = self._directory / (file_name or common_name)
        pair = Pair(stem.with_suffix(".crt"), stem.with_suffix(".key"))
        pair.cert.write_bytes(_pem(signed.sign(self._key, hashes.SHA256())))
        pair.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return pair


@dataclass(frozen=True)
class ClientTls:
    """The TLS files of a client that holds `pair`, for servers that `ca` signed. `grpc_name` is the name in the gRPC
    servers' certificates, if it is not their address.
    """

    ca: Path
    pair: Pair
    grpc_name: str = ""

    @cached_property
    def context(self):
        return ssl.create_default_context(cafile=self.ca)

    def open_channel(self, target, options):
        name = [("grpc.ssl_target_name_override", self.grpc_name)] if self.grpc_name else []
        return grpc.secure_channel(target, self.grpc_credentials, options=[*options, *name])

    @cached_property
    def grpc_credentials(self):
        return grpc.ssl_channel_credentials(
            self.ca.read_bytes(), self.pair.key.read_bytes(), self.pair.cert.read_bytes()
        )


def _alternative(name):
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _name(common_name):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(subject, issuer, key):
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + DAY)
    )


def _pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM)
