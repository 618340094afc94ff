"""An S3 server for the test run, on loopback."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from functools import cache

from native_handlers.storage.remote.s3_tier import S3Tier
from support.s3_models import share_models
from support.threaded_servers import running


class S3Server:
    """A running server with one bucket."""

    def __init__(self, port: int, bucket: str) -> None:
        self.bucket = bucket
        self.endpoint = f"http://127.0.0.1:{port}"
        import boto3  # noqa: PLC0415  as moto

        self.client = boto3.client(
            "s3", endpoint_url=self.endpoint, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
        )
        self.client.create_bucket(Bucket=self.bucket)

    def properties(self, **changes) -> tuple[tuple[str, str], ...]:
        """The properties of a tier in the bucket, as in the master's configuration."""
        said = {
            "aws_access_key_id": "a",
            "aws_secret_access_key": "b",
            "region": "us-east-1",
            "bucket": self.bucket,
            "endpoint": self.endpoint,
            "storage_class": "",
            "force_path_style": "true",
        }
        return tuple(sorted({**said, **changes}.items()))

    def keys(self) -> list[str]:
        return [one["Key"] for one in self.client.list_objects_v2(Bucket=self.bucket).get("Contents", [])]

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=data)

    def read(self, key: str) -> bytes:
        return self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()


@cache
def shared_tier(settings):
    """A tier for all stores of these settings: making its client takes a tenth of a second of a processor."""
    return S3Tier(settings)


@cache
def _application():
    # Takes as long to import as all of the product: only tests that start a server wait for it.
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app  # noqa: PLC0415

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    return DomainDispatcherApplication(create_backend_app)


@contextmanager
def s3_server(bucket):
    """A server that ends with the block. Servers of one process share their content: use a bucket of your own."""
    share_models()
    application = _application()
    from moto.moto_server.werkzeug_app import MotoRequestHandler  # noqa: PLC0415
    from werkzeug.serving import make_server  # noqa: PLC0415

    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=MotoRequestHandler)
    with running(server):
        yield S3Server(server.server_port, bucket)
