"""The addresses of objects in S3-compatible services: those that upstream's library asks for."""

import pytest

from native_handlers.remote.model import RemoteReadFailed
from native_handlers.remote.s3_objects import S3Access


@pytest.mark.parametrize(
    ("endpoint", "region", "base"),
    [
        ("", "", "https://s3.us-east-1.amazonaws.com"),
        ("", "eu-west-2", "https://s3.eu-west-2.amazonaws.com"),
        ("", "cn-north-1", "https://s3.cn-north-1.amazonaws.com.cn"),
        ("https://s3.example.com/", "eu-west-2", "https://s3.example.com"),
        ("http://10.0.0.1:9000", "", "http://10.0.0.1:9000"),
        ("s3.example.com", "", "https://s3.example.com"),
        ("s3.example.com:9000", "", "https://s3.example.com:9000"),
        ("http://gate.example.com/s3/", "", "http://gate.example.com/s3"),
    ],
)
def test_the_service(endpoint, region, base):
    assert S3Access(endpoint, region).url("bucket", "a/b") == f"{base}/bucket/a/b"


@pytest.mark.parametrize(
    ("endpoint", "bucket", "host_and_path"),
    [
        ("https://s3.example.com", "pictures", "https://pictures.s3.example.com/a"),
        ("http://s3.example.com:80/x/", "pictures", "http://pictures.s3.example.com:80/x/a"),
        ("http://s3.example.com", "my.pictures", "http://my.pictures.s3.example.com/a"),
        ("https://s3.example.com", "my.pictures", "https://s3.example.com/my.pictures/a"),
        ("http://s3.example.com", "my..pictures", "http://s3.example.com/my..pictures/a"),
        ("http://s3.example.com", "10.0.0.1", "http://s3.example.com/10.0.0.1/a"),
        ("https://s3.example.com", "Pictures", "https://s3.example.com/Pictures/a"),
        ("https://s3.example.com", "pb", "https://s3.example.com/pb/a"),
        ("https://s3.example.com", "evil.example.com/x?", "https://s3.example.com/evil.example.com%2Fx%3F/a"),
        ("", "pictures", "https://pictures.s3.us-east-1.amazonaws.com/a"),
    ],
)
def test_the_bucket_is_in_the_name_of_the_host_where_it_can_be(endpoint, bucket, host_and_path):
    assert S3Access(endpoint, is_path_style=False).url(bucket, "a") == host_and_path


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("a b+c", "a%20b%2Bc"),
        ("a//b/", "a//b/"),
        ("ä?#", "%C3%A4%3F%23"),
        ("~.a..b", "~.a..b"),
        ("%2E%2E/a", "%252E%252E/a"),
    ],
)
def test_keys_are_escaped(key, path):
    assert S3Access("http://s3").url("bucket", key) == f"http://s3/bucket/{path}"


@pytest.mark.parametrize(("bucket", "key"), [("b", ".."), ("b", "a/../b"), ("b", "./a"), ("b", "a/."), ("..", "a")])
def test_a_name_that_would_lead_to_another_object_is_not_read(bucket, key):
    with pytest.raises(RemoteReadFailed, match=r'part "\." or "\.\."'):
        S3Access("http://s3").url(bucket, key)


def test_an_endpoint_that_is_no_address():
    with pytest.raises(RemoteReadFailed, match=r'"http://\[": Invalid IPv6 URL'):
        S3Access("http://[").url("bucket", "a")
