"""gRPC channels to masters, volume servers and the backend, with upstream's limits and client TLS.

Upstream's clients verify the server's certificate chain but not its host name (weed/security/tls.go: LoadClientTLS uses
CertVerification), so operators run one certificate on many hosts. grpcio always checks the name. So this module first
reads the name from the verified certificate, and then gives that name to grpcio as the expected one.
"""

from __future__ import annotations

import errno
import logging
import socket
import ssl
from typing import TYPE_CHECKING

import grpc

from supervisor.net.grpc_options import (
    KEEPALIVE_OPTIONS,
    MESSAGE_OPTIONS,
    NO_RETRIES,
    OWN_CONNECTION_OPTIONS,
    STREAM_WINDOW,
    Options,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from supervisor.config.config import TlsFiles
    from supervisor.wire.server_address import ServerAddress

log = logging.getLogger(__name__)

NAME_LOOKUP_TIMEOUT_S = 5.0

CHANNEL_OPTIONS: Options = (
    *MESSAGE_OPTIONS,
    *KEEPALIVE_OPTIONS,
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    *OWN_CONNECTION_OPTIONS,
    *NO_RETRIES,
    *STREAM_WINDOW,
)
"""Each channel has its own connection, so closing one channel closes its socket."""


def open_channel(address: ServerAddress, tls: TlsFiles) -> grpc.Channel:
    """A channel to `address`: mutual TLS when cert, key and ca are all configured and readable, else plaintext.

    With TLS the call blocks for up to NAME_LOOKUP_TIMEOUT_S. An unreachable server raises nothing here: the calls on
    the channel fail.

    Raises:
        OSError: the files are no certificate, key and CA that go together. This also happens for a moment while the
            files are being replaced. No channel is open then.
    """
    material = client_material(tls)
    if material is None:
        return grpc.insecure_channel(address.grpc, CHANNEL_OPTIONS)
    context, credentials = _load(*material)
    options: list[tuple[str, int | str]] = list(CHANNEL_OPTIONS)
    name = _verified_name(address, context)
    if name is not None:
        options.append(("grpc.ssl_target_name_override", name))
    return grpc.secure_channel(address.grpc, credentials, options)


def client_material(tls: TlsFiles) -> tuple[Path, Path, Path] | None:
    """The files ca, cert and key; None for plaintext. client_cert and client_key count only as a pair.

    Source: weed/security/tls.go (LoadClientTLS).
    """
    cert, key = tls.cert, tls.key
    if tls.client_cert is not None and tls.client_key is not None:
        cert, key = tls.client_cert, tls.client_key
    if cert is None or key is None or tls.ca is None:
        return None
    for path in (tls.ca, cert, key):
        try:
            path.open("rb").close()
        except OSError as error:
            log.warning("gRPC client TLS is off: %s cannot be read: %s", path, error)
            return None
    return tls.ca, cert, key


def _load(ca: Path, cert: Path, key: Path) -> tuple[ssl.SSLContext, grpc.ChannelCredentials]:
    """The contents of the files, loaded for the ssl module and for grpcio. Raises OSError as `open_channel` does.

    grpcio ends the process when a file holds no certificate or no key. So the ssl module reads the files first, and the
    files must not have changed between the two readings.
    """
    texts = [path.read_bytes() for path in (ca, key, cert)]
    context = ssl.create_default_context(cafile=str(ca))
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(cert, key)
    if [path.read_bytes() for path in (ca, key, cert)] != texts:
        raise OSError(errno.EAGAIN, f"{ca}, {cert} and {key} are being replaced")
    return context, grpc.ssl_channel_credentials(*texts)


def _verified_name(address: ServerAddress, context: ssl.SSLContext) -> str | None:
    """A name in the certificate that `address` shows, after its chain is verified; None where that fails."""
    try:
        with (
            socket.create_connection((address.host, address.grpc_port), NAME_LOOKUP_TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=address.host) as secured,
        ):
            certificate = secured.getpeercert() or {}
    except (OSError, ValueError) as error:  # a text that is no name of a host is a ValueError
        log.debug("certificate of %s could not be read: %s", address, error)
        return None
    return name_in_certificate(certificate)


def name_in_certificate(certificate: Mapping[str, object]) -> str | None:
    """The first usable DNS or IP subject alternative name, else the common name, of `ssl.getpeercert()`'s dict."""
    alternatives = certificate.get("subjectAltName", ())
    assert isinstance(alternatives, tuple)
    for kind, value in alternatives:
        if kind == "DNS":
            return str(value).replace("*", "any", 1)
        if kind == "IP Address":
            return str(value)
    subject = certificate.get("subject", ())
    assert isinstance(subject, tuple)
    for relative_name in subject:
        for key, value in relative_name:
            if key == "commonName":
                return str(value)
    return None
