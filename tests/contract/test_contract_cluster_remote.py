"""A filer mounts a bucket, and volume servers of ours and of Go's fetch its objects by FetchAndWriteNeedle."""

import os

import pytest
from harness.cluster import Cluster
from harness.filer import Filer
from harness.implementations import find_weed
from support.s3_server import s3_server
from support.waiting import wait_until

pytestmark = pytest.mark.skipif(find_weed()[0] is None, reason=find_weed()[1])


@pytest.mark.parametrize("names", [["native"], ["native", "go"]], ids=["ours", "ours-and-go"])
def test_a_mounted_bucket_is_cached_on_volume_servers(weed, tmp_path, names):
    """And copied to the second server where two copies are asked for."""
    files = {f"{number}.bin": os.urandom(size) for number, size in enumerate((1, 5000, 400_000, 3_000_000))}
    with s3_server(f"mounted-{len(names)}") as s3:
        for name, data in files.items():
            s3.put(name, data)
        replication = f"00{len(names) - 1}"
        cluster = Cluster(tmp_path, weed, master_flags=[f"-defaultReplication={replication}"])
        try:
            cluster.add_all(*([name, "-volume.allowUntrustedRemoteEndpoints"] for name in names))
            filer = Filer(tmp_path / "filer", weed, cluster.master)
            credentials = "-s3.access_key=a -s3.secret_key=b -s3.region=us-east-1"
            said = filer.shell(
                f"remote.configure -name=cloud -type=s3 {credentials} -s3.endpoint={s3.endpoint}",
                f"remote.mount -dir=/mounted -remote=cloud/{s3.bucket}",
                "remote.cache -dir=/mounted",
            )
            wait_until(lambda: stored_bytes(cluster) >= sum(map(len, files.values())), f"the cache; {said}", 60)
            for name in files:
                s3.client.delete_object(Bucket=s3.bucket, Key=name)
            assert {name: filer.get(f"/mounted/{name}") for name in files} == files, said
            filer.process.end()
        finally:
            cluster.end()


def stored_bytes(cluster):
    """The bytes in the volumes of the server that has the fewest."""
    return min(sum(volume.size for volume in cluster.volumes(one).values()) for one in cluster.servers)
