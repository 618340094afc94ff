"""TLS contexts made from files, and made again when the files change. A connection keeps the context it began with.

Source: weed/security/tls.go (versions, cipher names, client certificates), weed/security/certreload.
"""

from __future__ import annotations

import logging
import os
import ssl
from typing import TYPE_CHECKING

from native_handlers.records import dataclass
from supervisor.net.errors import BadCertificate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

log = logging.getLogger(__name__)

CHECK_INTERVAL_S = 1.0
"""The files are looked at no more often than this, and only when a connection comes in."""

_VERSIONS: Mapping[str, ssl.TLSVersion] = {
    "TLS 1.0": ssl.TLSVersion.TLSv1,
    "TLS 1.1": ssl.TLSVersion.TLSv1_1,
    "TLS 1.2": ssl.TLSVersion.TLSv1_2,
    "TLS 1.3": ssl.TLSVersion.TLSv1_3,
}

_CIPHERS: Mapping[str, str] = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
}
_TLS13_CIPHERS = frozenset({"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"})
"""Names that may be listed without effect: TLS 1.3 always offers all of them, in Go as here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSettings:
    """One side's TLS. The names of versions and ciphers are those of security.toml; "" leaves the choice to OpenSSL.

    Args:
        ca: the authority that signs the other side's certificate. A server with `ca` refuses clients without one.
        alpn: protocols to offer, best first.
    """

    cert: Path
    key: Path
    ca: Path | None = None
    min_version: str = ""
    max_version: str = ""
    cipher_suites: str = ""
    alpn: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.cert, self.key) if self.ca is None else (self.cert, self.key, self.ca)


def server_context(settings: TlsSettings) -> ssl.SSLContext:
    """A context for accepting connections.

    Raises:
        BadCertificate: a file is missing or does not fit, or a version or cipher is unknown.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _restrict(context, settings)
    try:
        context.load_cert_chain(settings.cert, settings.key)
        if settings.ca is not None:
            context.load_verify_locations(settings.ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(map(str, settings.files))
        raise BadCertificate(f"cannot use the certificate files {files}: {error}") from error
    return context


def client_context(cert: Path | None, key: Path | None, ca: Path | None, *, verifies: bool = True) -> ssl.SSLContext:
    """A context for connecting to servers. `ca` replaces the system's authorities; `cert` and `key` are shown.

    Raises:
        BadCertificate: a file is missing or does not fit.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not verifies:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        if ca is not None:
            context.load_verify_locations(ca)
        elif verifies:
            context.load_default_certs()
        if cert is not None and key is not None:
            context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise BadCertificate(f"cannot use the certificate files {cert}, {key}, {ca}: {error}") from error
    return context


class TlsContextSource:
    """The current context of one listener. It is read again when a file changes; bad new files leave the old context.

    Args:
        settings: the files to read. An attribute too.
        clock: monotonic seconds.

    Raises:
        BadCertificate: the files cannot be used now.
    """

    def __init__(self, settings: TlsSettings, clock: Callable[[], float]) -> None:
        self.settings = settings
        self._clock = clock
        self._seen = _fingerprint(settings)
        self._context = server_context(settings)
        self._checked_at_s = clock()

    def current(self) -> ssl.SSLContext:
        """The context for a connection that begins now. Looks at the files at most once every CHECK_INTERVAL_S."""
        now_s = self._clock()
        if now_s - self._checked_at_s >= CHECK_INTERVAL_S:
            self._checked_at_s = now_s
            self._reload_if_changed()
        return self._context

    def _reload_if_changed(self) -> None:
        seen = _fingerprint(self.settings)
        if seen == self._seen:
            return
        try:
            self._context = server_context(self.settings)
        except BadCertificate as error:
            # Tried again next time: one file of the pair is often replaced before the other.
            log.warning("%s; the old ones stay in use", error)
            return
        self._seen = seen
        log.info("certificate %s was read again", self.settings.cert)


def _restrict(context: ssl.SSLContext, settings: TlsSettings) -> None:
    if settings.min_version:
        context.minimum_version = _version(settings.min_version)
    if settings.max_version:
        context.maximum_version = _version(settings.max_version)
    suites = settings.cipher_suites.strip()
    names = [name.strip() for name in suites.split(",")] if suites else []
    for name in names:
        if name not in _CIPHERS and name not in _TLS13_CIPHERS:
            raise BadCertificate(f"tls.cipher_suites: {name!r} is none of {', '.join(sorted(_CIPHERS))}")
    chosen = [_CIPHERS[name] for name in names if name in _CIPHERS]
    if chosen:
        context.set_ciphers(":".join(chosen))
    if settings.alpn:
        context.set_alpn_protocols(list(settings.alpn))


def _version(name: str) -> ssl.TLSVersion:
    version = _VERSIONS.get(name)
    if version is None:
        raise BadCertificate(f"{name!r} is no TLS version; known are {', '.join(_VERSIONS)}")
    return version


def _fingerprint(settings: TlsSettings) -> tuple[tuple[int, int, int] | None, ...]:
    return tuple(_stat(path) for path in settings.files)


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = os.stat(path)
    except OSError:
        return None  # differs from the fingerprint of any readable file, so the next readable one is loaded
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
