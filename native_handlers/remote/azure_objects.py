"""Blobs of Azure, read by ranges with Azure's own client (the extra `azure`).

Source: weed/remote_storage/azure/azure_storage_client.go (resolveAzureAccount, ReadFileWithConcurrency),
weed/remote_storage/azure/azure_credentials.go (NewAzBlobClient, azureServiceURL).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from azure.core.exceptions import AzureError
from azure.core.pipeline.transport import RequestsTransport
from azure.storage.blob import BlobServiceClient, ExponentialRetry

from native_handlers.remote.endpoints import check_endpoint
from native_handlers.remote.guarded_http import CONNECT_LIMIT_S, READ_LIMIT_S, open_free_pool, open_pool
from native_handlers.remote.guarded_session import HostRefused, open_session
from native_handlers.remote.model import RemoteReadFailed, RemoteStorageUnusable
from native_handlers.remote.parts import PART_BYTES, read_in_parts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from native_handlers.pb.remote_pb2 import RemoteConf
    from native_handlers.remote.guarded_http import CallConnections

DEFAULT_CONCURRENCY = 16
_ACCOUNT_NAME = re.compile(r"[a-z0-9]{3,24}")
"""The name becomes a part of the host: anything else in it could lead to another host."""
_RETRIES = 3


class AzureObjects:
    """Reads blobs with `client`. Safe from any thread; calls block."""

    def __init__(self, client: BlobServiceClient) -> None:
        self._client = client

    def read(
        self, bucket: str, key: str, offset_bytes: int, size_bytes: int, concurrency: int = 0
    ) -> bytes | memoryview:
        """Exactly `size_bytes` of the blob `key` in the container `bucket`, as it is stored.

        Raises:
            RemoteReadFailed: the service refused, went away, or has fewer bytes.
        """
        blob = self._client.get_blob_client(bucket, key)

        def part(start_bytes: int, length_bytes: int) -> bytes:
            data: bytes = blob.download_blob(start_bytes, length_bytes, decompress=False).readall()
            return data

        try:
            return read_in_parts(part, offset_bytes, size_bytes, concurrency or DEFAULT_CONCURRENCY)
        except (AzureError, HostRefused) as error:
            raise RemoteReadFailed(f"failed to download file {bucket}/{key}: {error}") from error


def open_azure(
    conf: RemoteConf, environ: Mapping[str, str], *, allows_any_endpoint: bool, connections: CallConnections
) -> AzureObjects:
    """A client for what `conf` describes; name and key of the account come from the environment where it has none.

    Raises:
        EndpointRefused: callers may not name this endpoint.
        RemoteStorageUnusable: name, key or endpoint cannot be used.
    """
    name = conf.azure_account_name or environ.get("AZURE_STORAGE_ACCOUNT", "")
    key = conf.azure_account_key
    if not key and not conf.azure_client_id:
        key = environ.get("AZURE_STORAGE_ACCESS_KEY", "")
    if not name:
        raise RemoteStorageUnusable(
            "neither azure_account_name nor the AZURE_STORAGE_ACCOUNT environment variable is set"
        )
    if not _ACCOUNT_NAME.fullmatch(name):
        text = f'invalid azure account name "{name}": expecting 3 to 24 lowercase letters and digits'
        raise RemoteStorageUnusable(text)
    if not key:
        text = f"azure account {name}: an account key is needed, for identities of this machine are not lent to callers"
        raise RemoteStorageUnusable(text)
    pool = open_free_pool(connections)
    if conf.azure_endpoint and not allows_any_endpoint:
        check_endpoint(conf.azure_endpoint)
        pool = open_pool(conf.azure_endpoint, connections=connections)
    transport = RequestsTransport(
        session=open_session(pool),
        use_env_settings=False,
        connection_timeout=CONNECT_LIMIT_S,
        read_timeout=READ_LIMIT_S,
    )
    try:
        client = BlobServiceClient(
            _service_url(name, conf.azure_endpoint),
            {"account_name": name, "account_key": key},
            transport=transport,
            retry_policy=ExponentialRetry(initial_backoff=1, increment_base=2, retry_total=_RETRIES),
            max_single_get_size=PART_BYTES,
            max_chunk_get_size=PART_BYTES,
            use_env_settings=False,
        )
    except ValueError as error:
        raise RemoteStorageUnusable(f"failed to create Azure client: {error}") from error
    return AzureObjects(client)


def _service_url(name: str, endpoint: str) -> str:
    if not endpoint:
        return f"https://{name}.blob.core.windows.net/"
    try:
        parts = urlsplit(endpoint)
        is_usable = parts.scheme == "https" and bool(parts.hostname)
    except ValueError:
        is_usable = False
    if not is_usable:
        usual = f"https://{name}.blob.core.usgovcloudapi.net/"
        raise RemoteStorageUnusable(
            f'invalid azure endpoint "{endpoint}": expecting an https service url, such as {usual}'
        )
    return endpoint
