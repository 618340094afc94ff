"""The connections of `guarded_http` for the clients of vendors, which speak HTTP through the library `requests`.

Loaded with those clients only. Certificates are checked against the machine's own store, as for the S3 kinds.
Source: weed/server/volume_grpc_remote.go (newGuardedHTTPClient).
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import requests
from requests.adapters import HTTPAdapter

from native_handlers.remote.guarded_http import DialRefused

if TYPE_CHECKING:
    from urllib3 import PoolManager


class HostRefused(Exception):
    """The host leads to an address that callers may not reach, or its certificate is not in order."""


def open_session(pool: PoolManager) -> requests.Session:
    """A session that sends all requests over `pool`, those after redirects too, and ignores the environment.

    Requests raise HostRefused where trying again changes nothing. After an error of `requests`, clients would repeat a
    request for half a minute.
    """
    session = requests.Session()
    session.trust_env = False
    adapter = _PoolAdapter(pool)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


class _PoolAdapter(HTTPAdapter):
    def __init__(self, pool: PoolManager) -> None:
        self._pool = pool
        super().__init__()

    def init_poolmanager(self, *_args: Any, **_kwargs: Any) -> None:  # noqa: ANN401  as the library calls it
        self.poolmanager = self._pool

    def build_connection_pool_key_attributes(
        self,
        request: requests.PreparedRequest,
        verify: Any,  # noqa: ANN401
        cert: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, {}

    def cert_verify(self, *_args: Any, **_kwargs: Any) -> None:  # noqa: ANN401
        """Does nothing: the pool checks certificates, against the machine's store."""

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:  # noqa: ANN401
        try:
            return super().send(*args, **kwargs)
        except requests.ConnectionError as error:
            reason = getattr(error.args[0], "reason", None) if error.args else None
            cause = reason.args[0] if reason is not None and reason.args else None
            if isinstance(reason, DialRefused) or isinstance(cause, ssl.SSLCertVerificationError):
                raise HostRefused(str(reason)) from error
            raise
