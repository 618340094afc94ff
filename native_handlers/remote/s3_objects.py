"""Objects of an S3-compatible service, read by ranges.

Source: weed/remote_storage/s3/s3_storage_client.go (s3CompatibleClientOptions, ReadFileWithConcurrency). Addresses are
those of upstream's library: aws-sdk-go, endpoints.AddScheme and service/s3/host_style_bucket.go.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from urllib3.exceptions import HTTPError

from native_handlers.records import dataclass
from native_handlers.remote.model import RemoteReadFailed
from native_handlers.remote.parts import read_in_parts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from urllib3 import PoolManager

_PARTIAL = 206
_WHOLE = 200
_MAX_ERROR_BYTES = 2000
_REGION = "us-east-1"
_BUCKET_IN_HOST = re.compile(r"(?!(\d+\.){3}\d+$)[a-z0-9](?!.*\.\.)[a-z0-9.-]{1,61}[a-z0-9]")


@dataclass(frozen=True, slots=True)
class S3Access:
    """How to reach a service. Without keys requests are not signed, as for public buckets.

    Attributes:
        endpoint: "" for the service of Amazon in `region`; without a scheme it is of https.
        region: "" for us-east-1.
    """

    endpoint: str
    region: str = ""
    access_key: str = ""
    secret_key: str = ""
    is_path_style: bool = True

    def url(self, bucket: str, key: str) -> str:
        """The address of an object.

        Raises:
            RemoteReadFailed: the endpoint is no address; or the name has a part "." or "..", which clients of HTTP take
                out of a path, so that another object would be read.
        """
        if not {".", ".."}.isdisjoint(f"{bucket}/{key}".split("/")):
            raise RemoteReadFailed(
                f'failed to download file {bucket}/{key}: a name with a part "." or ".." is not read'
            )
        try:
            parts = urlsplit(self._service())
        except ValueError as error:
            raise RemoteReadFailed(f'failed to download file {bucket}/{key}: "{self.endpoint}": {error}') from error
        base, path = f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/"), quote(key, safe="/~")
        # A certificate for all names of a domain is for one label.
        has_dots = parts.scheme == "https" and "." in bucket
        if self.is_path_style or has_dots or not _BUCKET_IN_HOST.fullmatch(bucket):
            return f"{base}/{quote(bucket, safe='~')}/{path}"
        return f"{parts.scheme}://{bucket}.{base.partition('://')[2]}/{path}"

    def _service(self) -> str:
        if self.endpoint:
            return self.endpoint if re.match("[^:]+://", self.endpoint) else f"https://{self.endpoint}"
        region = self.region or _REGION
        return f"https://s3.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"


class S3Objects:
    """Reads objects over the connections of `pool`. Safe from any thread; calls block."""

    def __init__(self, access: S3Access, pool: PoolManager) -> None:
        self._access = access
        self._pool = pool

    def read(
        self, bucket: str, key: str, offset_bytes: int, size_bytes: int, concurrency: int = 0
    ) -> bytes | memoryview:
        """Exactly `size_bytes` of the object, as it is stored, fetched in parts, `concurrency` at a time (0: the usual
        number).

        Raises:
            RemoteReadFailed: the service refused, went away, or has fewer bytes.
        """
        return read_in_parts(
            lambda start, length: self._part(bucket, key, start, length), offset_bytes, size_bytes, concurrency
        )

    def _part(self, bucket: str, key: str, start_bytes: int, length_bytes: int) -> bytes:
        name = f"{bucket}/{key}"
        url = self._access.url(bucket, key)
        headers = self._signed(url, {"Range": f"bytes={start_bytes}-{start_bytes + length_bytes - 1}"})
        try:
            answer = self._pool.request("GET", url, headers=headers, preload_content=False, redirect=False)
            try:
                if answer.status not in {_PARTIAL, _WHOLE}:
                    text = answer.read(_MAX_ERROR_BYTES, decode_content=False).decode("utf-8", "replace")
                    raise RemoteReadFailed(f"failed to download file {name}: status {answer.status}: {text}")
                if answer.status == _WHOLE and start_bytes:
                    raise RemoteReadFailed(f"failed to download file {name}: the service does not read ranges")
                if answer.status == _PARTIAL and not _begins_at(answer.headers.get("Content-Range", ""), start_bytes):
                    raise RemoteReadFailed(f"failed to download file {name}: the service sent another range")
                # Content-Encoding says how the object is stored; its bytes are wanted as they are.
                data = answer.read(length_bytes, decode_content=False)
            finally:
                answer.release_conn() if answer.length_remaining == 0 else answer.close()
        except HTTPError as error:
            raise RemoteReadFailed(f"failed to download file {name}: {error}") from error
        return data

    def _signed(self, url: str, headers: Mapping[str, str]) -> dict[str, str]:
        access = self._access
        if not access.access_key or not access.secret_key:
            return dict(headers)
        # Only here: loading it takes a quarter of a second, and few servers ever fetch.
        from botocore.auth import S3SigV4Auth  # noqa: PLC0415
        from botocore.awsrequest import AWSRequest  # noqa: PLC0415
        from botocore.credentials import Credentials  # noqa: PLC0415

        request = AWSRequest("GET", url, headers=dict(headers))
        request.context["payload_signing_enabled"] = False
        S3SigV4Auth(Credentials(access.access_key, access.secret_key), "s3", access.region or _REGION).add_auth(request)
        return dict(request.headers.items())


def _begins_at(content_range: str, start_bytes: int) -> bool:
    """RFC 9110 section 14.4: "bytes 0-99/1000"."""
    unit, _, span = content_range.partition(" ")
    return unit.lower() == "bytes" and span.partition("-")[0] == str(start_bytes)
