"""Objects of Google Cloud Storage, read by ranges with Google's own client (the extra `gcs`).

Only credentials that carry their own key in their JSON text are accepted. For other kinds Google's client would fetch
the token from an address, a file or a program that the text names.
Source: weed/remote_storage/gcs/gcs_storage_client.go (MakeWithHTTPClient, ReadFile),
weed/server/volume_grpc_remote.go (checkGcsCredentials, guardedRemoteClient).
"""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google.auth
import requests
from google.api_core.exceptions import GoogleAPICallError, RetryError
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import AuthorizedSession, Request
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption
from google.cloud.storage.retry import DEFAULT_RETRY
from google.oauth2.credentials import Credentials as UserCredentials
from google.oauth2.service_account import Credentials as ServiceCredentials

from native_handlers.remote.endpoints import check_endpoint
from native_handlers.remote.guarded_http import READ_LIMIT_S, open_free_pool, open_pool
from native_handlers.remote.guarded_session import HostRefused, open_session
from native_handlers.remote.model import RemoteReadFailed, RemoteStorageUnusable
from native_handlers.remote.parts import read_in_parts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from native_handlers.pb.remote_pb2 import RemoteConf
    from native_handlers.remote.guarded_http import CallConnections

TOKEN_URL = "https://oauth2.googleapis.com/token"  # noqa: S105  an address
"""Where tokens come from, unless the credentials of a service account say otherwise."""
_SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"
_MAKERS: Mapping[str, Any] = {
    "service_account": partial(ServiceCredentials.from_service_account_info, scopes=[_SCOPE]),
    "authorized_user": UserCredentials.from_authorized_user_info,
}
"""Kinds of credentials that carry their own key."""
_RETRY_FOR_S = 30.0

# Google's client would ask for the metadata of each bucket from a thread of its own, for traces that are not made here.
# Credentials that may only read objects are refused then, and the thread tries again for two minutes.
os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")


class GcsObjects:
    """Reads objects with `client`. Safe from any thread; calls block."""

    def __init__(self, client: storage.Client) -> None:
        self._client = client

    def read(
        self, bucket: str, key: str, offset_bytes: int, size_bytes: int, concurrency: int = 0
    ) -> bytes | memoryview:
        """Exactly `size_bytes` of the object, as it is stored: an object that is kept as gzip stays gzip.

        Raises:
            RemoteReadFailed: the service refused, went away, or has fewer bytes.
        """
        blob = self._client.bucket(bucket).blob(key)

        def part(start_bytes: int, length_bytes: int) -> bytes:
            data: bytes = blob.download_as_bytes(
                start=start_bytes,
                end=start_bytes + length_bytes - 1,
                raw_download=True,
                single_shot_download=True,
                checksum=None,
                timeout=READ_LIMIT_S,
                retry=DEFAULT_RETRY.with_timeout(_RETRY_FOR_S),
            )
            return data

        try:
            return read_in_parts(part, offset_bytes, size_bytes, concurrency)
        except (
            GoogleAPICallError,
            RetryError,
            GoogleAuthError,
            DataCorruption,
            requests.RequestException,
            HostRefused,
        ) as error:
            raise RemoteReadFailed(f"failed to download file {bucket}/{key}: {error}") from error


def open_gcs(
    conf: RemoteConf, environ: Mapping[str, str], *, allows_any_endpoint: bool, connections: CallConnections
) -> GcsObjects:
    """A client for what `conf` describes. Without credentials in `conf` those of the server's environment are used.

    Raises:
        EndpointRefused: the credentials send the client for its token where callers may not reach.
        RemoteStorageUnusable: the credentials are none, or none that a caller may give.
    """
    given = conf.gcs_google_application_credentials
    if given and not allows_any_endpoint and not given.startswith("{"):
        raise RemoteStorageUnusable("gcs credentials must be inline JSON", is_refusal=True)
    text = given or environ.get("GOOGLE_APPLICATION_CREDENTIALS", "")
    pool = open_free_pool(connections)
    if text:
        document = _parse(text)
        kind = str(document.get("type", ""))
        if kind not in _MAKERS:
            is_refusal = bool(given) and not allows_any_endpoint
            raise RemoteStorageUnusable(f'gcs credential type "{kind}" is not accepted here', is_refusal=is_refusal)
        if given and not allows_any_endpoint:
            token_url = str(document.get("token_uri") or TOKEN_URL)
            check_endpoint(token_url)
            pool = open_pool(token_url, connections=connections)
        credentials = _credentials_of(kind, {"token_uri": TOKEN_URL, **document})
    else:
        credentials = _credentials_of_the_machine()
    session = open_session(pool)
    authorized: Any = AuthorizedSession(credentials, auth_request=Request(session))  # type: ignore[no-untyped-call]
    authorized.trust_env = False
    for prefix, adapter in session.adapters.items():
        authorized.mount(prefix, adapter)
    project = conf.gcs_project_id or environ.get("GOOGLE_CLOUD_PROJECT") or "-"
    try:
        return GcsObjects(storage.Client(project=project, credentials=credentials, _http=authorized))
    except (ValueError, GoogleAuthError) as error:
        raise RemoteStorageUnusable(f"failed to create client: {error}") from error


def _parse(text: str) -> dict[str, Any]:
    if not text.startswith("{"):
        try:
            text = Path(text).expanduser().read_text()
        except (OSError, UnicodeError) as error:
            raise RemoteStorageUnusable(f"failed to read credentials file {text}: {error}") from error
    try:
        parsed = json.loads(text)
    except ValueError as error:
        raise RemoteStorageUnusable(f"parse gcs credentials: {error}") from error
    if not isinstance(parsed, dict):
        raise RemoteStorageUnusable("parse gcs credentials: they are no JSON object")
    return parsed


def _credentials_of(kind: str, document: dict[str, Any]) -> Any:  # noqa: ANN401  the library has no types
    try:
        return _MAKERS[kind](document)
    except (ValueError, GoogleAuthError) as error:
        raise RemoteStorageUnusable(f"failed to parse credentials: {error}") from error


def _credentials_of_the_machine() -> Any:  # noqa: ANN401
    try:
        credentials, _ = google.auth.default(scopes=[_SCOPE])
    except GoogleAuthError as error:
        raise RemoteStorageUnusable(f"failed to create client: {error}") from error
    return credentials
