"""The connections of `guarded_http` for the clients of vendors, which speak HTTP through the library `requests`.

Loaded with those clients only. Certificates are checked against the machine's own store, as for the S3 kinds.
Source: weed/server/volume_grpc_remote.go (newGuardedHTTPClient).
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPResponse

from native_handlers.remote.guarded_http import DialRefused
from native_handlers.remote.parts import PART_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from urllib3 import PoolManager

MAX_ANSWER_BYTES = PART_BYTES + (1 << 20)
"""The longest answer: a part of an object with 1 MiB for the text that a service puts around it. A token is shorter."""


class HostRefused(Exception):
    """The host leads to an address that callers may not reach, its certificate is not in order, or it sent more than
    MAX_ANSWER_BYTES.
    """


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

    def build_response(self, req: requests.PreparedRequest, resp: Any) -> requests.Response:  # noqa: ANN401
        resp.__class__ = _BoundedResponse
        return super().build_response(req, resp)

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:  # noqa: ANN401
        try:
            return super().send(*args, **kwargs)
        except requests.ConnectionError as error:
            reason = getattr(error.args[0], "reason", None) if error.args else None
            cause = reason.args[0] if reason is not None and reason.args else None
            if isinstance(reason, DialRefused) or isinstance(cause, ssl.SSLCertVerificationError):
                raise HostRefused(str(reason)) from error
            raise


class _BoundedResponse(HTTPResponse):
    """An answer whose body is not read beyond MAX_ANSWER_BYTES, packed or unpacked. Clients read, and some join, what a
    host sends, however much it is.

    The class of each answer is set to this one, because urllib3 lets nobody choose it.
    """

    _left_bytes = MAX_ANSWER_BYTES

    def read(self, amt: int | None = None, decode_content: bool | None = None, cache_content: bool = False) -> bytes:  # noqa: FBT001, FBT002  as the library has it
        return self._counted(super().read(self._bounded(amt), decode_content, cache_content))

    def read_chunked(self, amt: int | None = None, decode_content: bool | None = None) -> Iterator[bytes]:  # type: ignore[override]  # noqa: FBT001
        return map(self._counted, super().read_chunked(self._bounded(amt), decode_content))

    def _bounded(self, wanted_bytes: int | None) -> int:
        most = self._left_bytes + 1
        return most if wanted_bytes is None or wanted_bytes < 0 else min(wanted_bytes, most)

    def _counted(self, data: bytes) -> bytes:
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            self.close()
            raise HostRefused(f"the host sent more than {MAX_ANSWER_BYTES} bytes")
        return data
