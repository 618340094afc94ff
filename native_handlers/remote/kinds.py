"""Which client a description of remote storage stands for: the kinds, their fields, and what the environment completes.

Source: weed/remote_storage/s3/s3_storage_client.go (s3CompatibleClientOptions), weed/remote_storage/remote_storage.go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.remote.endpoints import check_endpoint
from native_handlers.remote.guarded_http import CallConnections, open_free_pool, open_pool
from native_handlers.remote.model import RemoteStorageUnusable
from native_handlers.remote.s3_objects import S3Access, S3Objects

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from native_handlers.pb.remote_pb2 import RemoteConf
    from native_handlers.remote.model import RemoteObjects

    Environ = Mapping[str, str]

VENDOR_KINDS = {"gcs": "Google Cloud Storage", "azure": "Azure Blob Storage"}
"""Kinds that speak a protocol of their own, through clients that the extras of the same names install."""
_VENDOR_LIBRARIES = ("google", "azure", "requests")


def _aws_keys(conf_access: str, conf_secret: str, environ: Environ) -> tuple[str, str]:
    return conf_access or environ.get("AWS_ACCESS_KEY_ID", ""), conf_secret or environ.get("AWS_SECRET_ACCESS_KEY", "")


_S3_KINDS: Mapping[str, Callable[[RemoteConf, Environ], S3Access]] = {
    "s3": lambda conf, _environ: S3Access(
        conf.s3_endpoint, conf.s3_region, conf.s3_access_key, conf.s3_secret_key, conf.s3_force_path_style
    ),
    "aliyun": lambda conf, environ: S3Access(
        conf.aliyun_endpoint,
        conf.aliyun_region,
        conf.aliyun_access_key or environ.get("ALICLOUD_ACCESS_KEY_ID", ""),
        conf.aliyun_secret_key or environ.get("ALICLOUD_ACCESS_KEY_SECRET", ""),
        is_path_style=False,
    ),
    "b2": lambda conf, _environ: S3Access(
        conf.backblaze_endpoint, conf.backblaze_region, conf.backblaze_key_id, conf.backblaze_application_key
    ),
    "baidu": lambda conf, environ: S3Access(
        conf.baidu_endpoint,
        conf.baidu_region,
        conf.baidu_access_key or environ.get("BDCLOUD_ACCESS_KEY", ""),
        conf.baidu_secret_key or environ.get("BDCLOUD_SECRET_KEY", ""),
        is_path_style=False,
    ),
    "contabo": lambda conf, environ: S3Access(
        conf.contabo_endpoint,
        conf.contabo_region,
        conf.contabo_access_key or environ.get("ACCESS_KEY", ""),
        conf.contabo_secret_key or environ.get("SECRET_KEY", ""),
    ),
    "filebase": lambda conf, environ: S3Access(
        conf.filebase_endpoint, "us-east-1", *_aws_keys(conf.filebase_access_key, conf.filebase_secret_key, environ)
    ),
    "storj": lambda conf, environ: S3Access(
        conf.storj_endpoint, "us-west-2", *_aws_keys(conf.storj_access_key, conf.storj_secret_key, environ)
    ),
    "tencent": lambda conf, environ: S3Access(
        conf.tencent_endpoint,
        "us-west-2",
        conf.tencent_secret_id or environ.get("COS_SECRETID", ""),
        conf.tencent_secret_key or environ.get("COS_SECRETKEY", ""),
    ),
    "wasabi": lambda conf, _environ: S3Access(
        conf.wasabi_endpoint, conf.wasabi_region, conf.wasabi_access_key, conf.wasabi_secret_key
    ),
}


def s3_access(conf: RemoteConf, environ: Environ) -> S3Access | None:
    """How to reach the S3-compatible service that `conf` describes; None where it is of another kind."""
    make = _S3_KINDS.get(conf.type)
    return make(conf, environ) if make else None


def open_remote(
    conf: RemoteConf, environ: Environ, *, allows_any_endpoint: bool, connections: CallConnections | None = None
) -> RemoteObjects:
    """A client for the storage that `conf` describes.

    Args:
        allows_any_endpoint: as `-volume.allowUntrustedRemoteEndpoints`.
        connections: gets the client's connections.

    Raises:
        EndpointRefused: callers may not name this endpoint.
        RemoteStorageUnusable: the kind is unknown, or no client of it can be made.
    """
    connections = connections or CallConnections()
    access = s3_access(conf, environ)
    if access is not None:
        if allows_any_endpoint:
            return S3Objects(access, open_free_pool(connections))
        check_endpoint(access.endpoint)
        return S3Objects(access, open_pool(access.endpoint, connections=connections))
    if conf.type in VENDOR_KINDS:
        return _open_vendor(conf, environ, allows_any_endpoint=allows_any_endpoint, connections=connections)
    raise RemoteStorageUnusable(f"remote storage type {conf.type} not found")


def _open_vendor(
    conf: RemoteConf, environ: Environ, *, allows_any_endpoint: bool, connections: CallConnections
) -> RemoteObjects:
    try:
        if conf.type == "gcs":
            from native_handlers.remote.gcs_objects import open_gcs  # noqa: PLC0415

            return open_gcs(conf, environ, allows_any_endpoint=allows_any_endpoint, connections=connections)
        from native_handlers.remote.azure_objects import open_azure  # noqa: PLC0415

        return open_azure(conf, environ, allows_any_endpoint=allows_any_endpoint, connections=connections)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _VENDOR_LIBRARIES:
            raise
        kind = f"remote storage type {conf.type} ({VENDOR_KINDS[conf.type]})"
        text = f"{kind} needs {error.name}, which is not installed: pip install 'weed-volume-py[{conf.type}]'"
        raise RemoteStorageUnusable(text, is_missing_extra=True) from error
