"""The S3 gateway of `weed` as the remote store: a tier is kept there, and objects are read from there.

The gateway is another program than the S3 server of the other tests. A native server holds its objects.
"""

import os
import threading

import boto3
import pytest
from harness.cluster import Cluster
from harness.filer import Filer
from harness.implementations import find_weed
from harness.processes import ServerProcess
from support.ports import LOOPBACK, free_port
from support.waiting import wait_until

from native_handlers.pb.remote_pb2 import RemoteConf
from native_handlers.remote.kinds import open_remote
from native_handlers.storage.remote.s3_tier import S3Tier
from native_handlers.storage.remote.tiers import TierFailed, TierSettings

pytestmark = [pytest.mark.skipif(find_weed()[0] is None, reason=find_weed()[1]), pytest.mark.slow]
BUCKET = "cold"
DATA = os.urandom(9_000_000)


@pytest.fixture(scope="module")
def endpoint(weed, tmp_path_factory):
    """Slow: starts a master, a native server, a filer and a gateway."""
    base = tmp_path_factory.mktemp("s3")
    cluster = Cluster(base, weed)
    cluster.add_all(["native", "-max=20"])
    filer = Filer(base / "filer", weed, cluster.master)
    port = free_port()
    command = [
        weed, "-logtostderr=true", "s3", f"-ip.bind={LOOPBACK}", f"-port={port}", f"-port.grpc={free_port()}",
        f"-filer={LOOPBACK}:{filer.port}.{filer.grpc_port}", f"-localSocket={base / 's3.sock'}",
    ]  # fmt: skip
    gateway = ServerProcess(command, base / "s3.log", base)
    address = f"http://{LOOPBACK}:{port}"
    client = boto3.client(
        "s3", endpoint_url=address, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    wait_until(lambda: has_made(client), "the bucket", 60.0)
    yield address
    for process in (gateway, filer.process):
        process.end()
    cluster.end()


def has_made(client):
    try:
        client.create_bucket(Bucket=BUCKET)
    except Exception:  # noqa: BLE001  it does not serve yet
        return False
    return True


def tier_at(endpoint):
    said = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region": "us-east-1", "bucket": BUCKET}
    said |= {"endpoint": endpoint, "storage_class": "STANDARD_IA", "force_path_style": "true"}
    return S3Tier(TierSettings("s3", "cold", tuple(said.items())))


def test_a_tier(endpoint, tmp_path):
    tier, told = tier_at(endpoint), threading.Event()
    source, back = tmp_path / "7.dat", tmp_path / "back"
    source.write_bytes(DATA)
    key = tier.upload(source, len(DATA), lambda _bytes, _percentage: told.set())
    assert told.is_set()
    assert tier.read(key, 8_000_000, 1000) == DATA[8_000_000:8_001_000]
    assert tier.read(key, len(DATA), 10) == b""
    assert tier.download(key, back, lambda _bytes, _percentage: None) == len(DATA)
    assert back.read_bytes() == DATA
    tier.delete(key)
    with pytest.raises(TierFailed):
        tier.read(key, 0, 10)


def test_an_object_is_read(endpoint, tmp_path):
    tier, source = tier_at(endpoint), tmp_path / "object"
    source.write_bytes(DATA)
    key = tier.upload(source, len(DATA), lambda _bytes, _percentage: None)
    conf = RemoteConf(
        type="s3", s3_access_key="a", s3_secret_key="b", s3_region="us-east-1", s3_endpoint=endpoint,
        s3_force_path_style=True,
    )  # fmt: skip
    client = open_remote(conf, {}, allows_any_endpoint=True)
    for offset, size, concurrency in [(0, 1, 0), (17, 1000, 3), (0, len(DATA), 0), (4 << 20, 4 << 20, 1)]:
        assert client.read(BUCKET, key, offset, size, concurrency) == DATA[offset : offset + size]
