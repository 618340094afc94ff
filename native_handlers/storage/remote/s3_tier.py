"""A tier in an S3 bucket. Source: weed/storage/backend/s3_backend (s3_backend.go, s3_upload.go, s3_download.go)."""

from __future__ import annotations

import logging
import threading
import uuid
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from native_handlers.storage.remote.s3_ranges import CONCURRENCY, PART_BYTES, S3Object, download_in_parts, read_range
from native_handlers.storage.remote.tiers import TierFailed, TierSilent, TierUnreachable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from native_handlers.storage.remote.tiers import Progress, TierSettings

MAX_PARTS = 1000
CONNECT_LIMIT_S = 10.0
READ_LIMIT_S = 60.0
ATTEMPTS = 5
HURRIED_LIMIT_S, HURRIED_ATTEMPTS = 5.0, 2
"""How long a request waits for a connection and for bytes where something else waits for it, and how often it is made.
A service that closes one connection, or is busy for a moment, is not silent."""
_log = logging.getLogger(__name__)
_NO = frozenset({"0", "f", "F", "false", "FALSE", "False"})
"""The texts of `force_path_style` that mean no. All others mean yes, as upstream: weed/util/parse.go (ParseBool), which
falls back to yes.
"""
_RANGE_BEHIND_END = "InvalidRange"


class S3Tier:
    """A bucket and its access data; see `Tier`."""

    def __init__(self, settings: TierSettings) -> None:
        said = dict(settings.properties)
        self._bucket = said.get("bucket", "")
        self._endpoint = said.get("endpoint", "")
        self._region = said.get("region", "")
        self._keys = said.get("aws_access_key_id", ""), said.get("aws_secret_access_key", "")
        self._storage_class = said.get("storage_class", "") or "STANDARD_IA"
        self._is_path_style = said.get("force_path_style", "") not in _NO
        # boto3 must not make clients in two threads at once: see its documentation of sessions.
        self._making = threading.Lock()

    def _connect(self, *, is_hurried: bool = False) -> Any:  # noqa: ANN401  boto3 makes its classes when it runs
        """A client; where `is_hurried`, one that waits a few seconds and tries once more."""
        with self._making:
            return self._hurried_client if is_hurried else self._client

    @cached_property
    def _client(self) -> Any:  # noqa: ANN401
        return self._make_client(CONNECT_LIMIT_S, READ_LIMIT_S, ATTEMPTS)

    @cached_property
    def _hurried_client(self) -> Any:  # noqa: ANN401
        return self._make_client(HURRIED_LIMIT_S, HURRIED_LIMIT_S, HURRIED_ATTEMPTS)

    def _make_client(self, connect_limit_s: float, read_limit_s: float, attempts: int) -> Any:  # noqa: ANN401
        # Imported here: loading it takes half a second, and few servers have a tier.
        import boto3  # noqa: PLC0415
        from botocore.config import Config  # noqa: PLC0415

        access_key, secret_key = self._keys
        return boto3.session.Session().client(
            "s3",
            region_name=self._region or "us-east-1",
            endpoint_url=self._endpoint or None,
            aws_access_key_id=access_key or None,
            aws_secret_access_key=secret_key or None,
            config=Config(
                s3={"addressing_style": "path" if self._is_path_style else "virtual"},
                connect_timeout=connect_limit_s,
                read_timeout=read_limit_s,
                retries={"total_max_attempts": attempts, "mode": "standard"},
                max_pool_connections=32,
                # Older services of this protocol do not know the newer checksums.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def upload(self, path: Path, size_bytes: int, progress: Progress) -> str:
        key = str(uuid.uuid4())
        part_bytes = PART_BYTES
        while part_bytes * MAX_PARTS < size_bytes:
            part_bytes *= 4
        done = _Counter(size_bytes, progress)
        with _failures(f"failed to upload file {path}"):
            client = self._connect()
            try:
                client.upload_file(
                    str(path),
                    self._bucket,
                    key,
                    ExtraArgs={"StorageClass": self._storage_class},
                    Callback=done.add,
                    Config=_transfer(part_bytes),
                )
                stored_bytes = int(client.head_object(Bucket=self._bucket, Key=key)["ContentLength"])
                if stored_bytes != size_bytes:
                    raise TierFailed(f"{stored_bytes} of {size_bytes} bytes are stored")
            except BaseException:
                self._discard(key)
                raise
        return key

    def _discard(self, key: str) -> None:
        """Deletes an object that may have been stored though its upload failed. A failure is logged."""
        try:
            with _failures("DeleteObject"):
                self._connect(is_hurried=True).delete_object(Bucket=self._bucket, Key=key)
        except TierFailed as error:
            _log.warning("the object %s of an upload that failed may stay in bucket %s: %s", key, self._bucket, error)

    def download(self, key: str, path: Path, progress: Progress) -> int:
        with _failures(f"failed to download /buckets/{self._bucket}/{key} to {path}"):
            client = self._connect()
            head = client.head_object(Bucket=self._bucket, Key=key)
            size_bytes = int(head["ContentLength"])
            found = S3Object(client, self._bucket, key, head.get("ETag", ""))
            download_in_parts(found, size_bytes, path, _Counter(size_bytes, progress).add)
        return size_bytes

    def read(self, key: str, offset_bytes: int, length_bytes: int, *, is_hurried: bool = False) -> bytes:
        if length_bytes <= 0:
            return b""
        with _failures(f"bucket {self._bucket} GetObject {key}"):
            client = self._connect(is_hurried=is_hurried)
            try:
                return read_range(S3Object(client, self._bucket, key), offset_bytes, length_bytes)
            except client.exceptions.ClientError as error:
                if error.response.get("Error", {}).get("Code") == _RANGE_BEHIND_END:
                    return b""
                raise

    def delete(self, key: str, *, is_hurried: bool = False) -> None:
        with _failures(f"bucket {self._bucket} DeleteObject {key}"):
            self._connect(is_hurried=is_hurried).delete_object(Bucket=self._bucket, Key=key)


def _transfer(part_bytes: int) -> Any:  # noqa: ANN401
    from boto3.s3.transfer import TransferConfig  # noqa: PLC0415

    return TransferConfig(multipart_threshold=part_bytes, multipart_chunksize=part_bytes, max_concurrency=CONCURRENCY)


class _Counter:
    """Sums the bytes that the threads of one transfer have moved."""

    def __init__(self, size_bytes: int, progress: Progress) -> None:
        self._size_bytes, self._progress = size_bytes, progress
        self._lock = threading.Lock()  # protects _moved_bytes
        self._moved_bytes = 0

    def add(self, moved_bytes: int) -> None:
        with self._lock:
            self._moved_bytes += moved_bytes
            moved_bytes = self._moved_bytes
        self._progress(moved_bytes, 100 * moved_bytes / self._size_bytes if self._size_bytes else 100.0)


@contextmanager
def _failures(doing: str) -> Iterator[None]:
    """Turns the exceptions of boto3, and of what it is built on, into TierFailed, whose text begins with `doing`."""
    from boto3.exceptions import Boto3Error  # noqa: PLC0415
    from botocore.exceptions import (  # noqa: PLC0415
        BotoCoreError,
        ClientError,
        ConnectionError,  # noqa: A004  its name there
        ConnectTimeoutError,
        HTTPClientError,
        IncompleteReadError,
        ReadTimeoutError,
    )
    from urllib3.exceptions import HTTPError  # noqa: PLC0415

    try:
        yield
    except (ConnectTimeoutError, ReadTimeoutError) as error:
        raise TierSilent(f"{doing}: {error}") from error
    except (HTTPClientError, ConnectionError, IncompleteReadError, HTTPError) as error:
        raise TierUnreachable(f"{doing}: {error}") from error
    except (Boto3Error, BotoCoreError, ClientError, OSError, ValueError, TierFailed) as error:
        # A ValueError is for settings of which no client can be made, as an endpoint that is no URL.
        raise TierFailed(f"{doing}: {error}") from error
