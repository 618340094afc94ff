"""Reads from Google Cloud Storage and from Azure, through the vendors' own clients. What holds for all kinds holds for
S3 too.
"""

from __future__ import annotations

import base64
import builtins
import gzip
import importlib.util
import json
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import urllib.request
from random import Random
from urllib.parse import quote

import pytest
from support.certificate_authority import Authority
from support.object_services import SHORT_KEY_WARNING, AzureDouble, GcsDouble, make_key, serving
from support.played_s3 import played_s3
from support.ports import free_port
from support.waiting import wait_until

from native_handlers.pb.remote_pb2 import RemoteConf
from native_handlers.remote.endpoints import EndpointRefused
from native_handlers.remote.kinds import open_remote
from native_handlers.remote.model import RemoteReadFailed, RemoteStorageUnusable

pytestmark = pytest.mark.filterwarnings("ignore:Please install grpcio-status:ImportWarning", SHORT_KEY_WARNING)
"""Google's client says what it would like to have besides."""

AZURITE = shutil.which("azurite-blob")
NAME = "dir/a name+&.bin"
OBJECT = Random(6).randbytes(9_000_000)
TEXT = b"stored as gzip " * 1000
RANGES = [(0, 1, 0), (17, 1000, 3), (0, len(OBJECT), 0), (4 << 20, 4 << 20, 1), (len(OBJECT) - 1, 1, 999)]


def has(module):
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


needs_gcs = pytest.mark.skipif(
    not has("google.cloud.storage"), reason="the extra gcs is not installed: pip install 'weed-volume-py[gcs]'"
)
needs_azure = pytest.mark.skipif(
    not has("azure.storage.blob"), reason="the extra azure is not installed: pip install 'weed-volume-py[azure]'"
)


@pytest.fixture(scope="module")
def google_key():
    return make_key()


@pytest.fixture
def gcs(google_key, monkeypatch):
    service = GcsDouble({f"bucket/{NAME}": OBJECT, "bucket/text.gz": TEXT}, google_key)
    with serving(service) as address:
        service.address = address
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        yield service


@pytest.fixture
def gcs_emulator(gcs, monkeypatch):
    """A program of others that speaks Google's protocol. It takes any token, which our double gives out."""
    server_module = pytest.importorskip("gcp_storage_emulator.server")
    port = free_port()
    server = server_module.create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
    server.start()
    address = f"http://127.0.0.1:{port}"
    for name, data in gcs.objects.items():
        target = f"/upload/storage/v1/b/bucket/o?uploadType=media&name={quote(name.removeprefix('bucket/'), safe='')}"
        urllib.request.urlopen(urllib.request.Request(address + target, data=data, method="POST")).close()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
    yield free(gcs_conf(gcs))
    server.stop()


@pytest.fixture
def azure(tmp_path, monkeypatch):
    service = AzureDouble({f"bucket/{NAME}": OBJECT, "bucket/text.gz": TEXT})
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("server"))
    with serving(service, context) as address:
        service.address = address
        yield service


def gcs_conf(gcs, **changes):
    return RemoteConf(type="gcs", gcs_google_application_credentials=gcs.credentials(**changes))


def azure_conf(azure, **changes):
    said = {"azure_account_name": azure.account, "azure_account_key": azure.key, "azure_endpoint": azure.address}
    return RemoteConf(type="azure", **{**said, **changes})


def s3_conf(played):
    return RemoteConf(type="s3", s3_endpoint=played.endpoint, s3_force_path_style=True)


def free(conf, environ=None):
    return open_remote(conf, environ or {}, allows_any_endpoint=True)


def guarded(conf, environ=None):
    return open_remote(conf, environ or {}, allows_any_endpoint=False)


@needs_azure
@pytest.mark.skipif(AZURITE is None, reason="Microsoft's emulator is not installed: npm install -g azurite")
def test_microsofts_emulator_agrees_with_the_double(tmp_path, monkeypatch):
    authority, port = Authority(tmp_path), free_port()
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.ca))
    monkeypatch.setenv("AZURITE_ACCOUNTS", f"{AzureDouble.account}:{AzureDouble.key}")
    certificate, key = authority.issue("server")
    address = f"https://127.0.0.1:{port}/{AzureDouble.account}"
    command = [
        AZURITE, "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--blobHost", "127.0.0.1",
        "--blobPort", str(port), "--cert", str(certificate), "--key", str(key),
    ]  # fmt: skip
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=tmp_path, **quiet)
    try:
        wait_until(lambda: is_open(port), "the emulator to serve")
        from azure.storage.blob import BlobServiceClient  # noqa: PLC0415  only where it is installed

        named = {"account_name": AzureDouble.account, "account_key": AzureDouble.key}
        service = BlobServiceClient(address, credential=named)
        service.create_container("bucket")
        service.get_blob_client("bucket", NAME).upload_blob(OBJECT)
        said = {"azure_account_name": AzureDouble.account, "azure_endpoint": address}
        client = free(RemoteConf(type="azure", azure_account_key=AzureDouble.key, **said))
        for offset, size, concurrency in RANGES:
            assert client.read("bucket", NAME, offset, size, concurrency) == OBJECT[offset : offset + size]
        with pytest.raises(RemoteReadFailed, match="failed to download file bucket/none: "):
            client.read("bucket", "none", 0, 10)
        other_key = base64.b64encode(bytes(64)).decode()
        with pytest.raises(RemoteReadFailed, match="authenticate"):
            free(RemoteConf(type="azure", azure_account_key=other_key, **said)).read("bucket", NAME, 0, 10)
    finally:
        process.kill()
        process.wait()


def is_open(port):
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


# ---- both


@needs_gcs
@pytest.mark.slow
def test_an_emulator_of_others_agrees_with_the_double(gcs_emulator):
    """Slow: starts the emulator."""
    for offset, size, concurrency in RANGES:
        assert gcs_emulator.read("bucket", NAME, offset, size, concurrency) == OBJECT[offset : offset + size]
    with pytest.raises(RemoteReadFailed, match="failed to download file bucket/none: 404"):
        gcs_emulator.read("bucket", "none", 0, 10)


@pytest.fixture(params=[pytest.param("gcs", marks=needs_gcs), pytest.param("azure", marks=needs_azure)])
def service(request):
    """A double, and a client of it."""
    double = request.getfixturevalue(request.param)
    return double, free({"gcs": gcs_conf, "azure": azure_conf}[request.param](double))


@pytest.mark.parametrize(("offset", "size", "concurrency"), RANGES)
@pytest.mark.slow
def test_a_range_is_read(service, offset, size, concurrency):
    """Slow: loads the libraries of the vendors."""
    assert service[1].read("bucket", NAME, offset, size, concurrency) == OBJECT[offset : offset + size]


@pytest.fixture(
    params=[
        pytest.param("gcs", marks=needs_gcs),
        pytest.param("azure", marks=needs_azure),
        "s3",
        "a whole object of s3",
    ]
)
def gzip_object(request):
    """An object that is kept as gzip, and a client of its service."""
    if "s3" not in request.param:
        double = request.getfixturevalue(request.param)
        yield double.objects["bucket/text.gz"], free({"gcs": gcs_conf, "azure": azure_conf}[request.param](double))
        return
    stored = gzip.compress(TEXT)
    with played_s3({"text.gz": stored}, "bucket") as played:
        played.more_headers = {"Content-Encoding": "gzip"}
        if request.param != "s3":
            played.answer_get = lambda answer, _key, data, _first, _last: answer.say(200, data, played.more_headers)
        yield stored, free(s3_conf(played))


def test_an_object_kept_as_gzip_is_read_as_it_is_stored(gzip_object, request):
    stored, client = gzip_object
    assert client.read("bucket", "text.gz", 0, len(stored)) == stored
    assert client.read("bucket", "text.gz", 0, 20) == stored[:20]
    if "whole" not in request.node.callspec.id:
        assert client.read("bucket", "text.gz", 10, 20) == stored[10:30]


@pytest.mark.parametrize("said", ["bytes 0-9/100", "bytes */100", "", "lines 10-19/100"])
def test_another_range_of_an_s3_object_is_not_read(said):
    with played_s3({"a": bytes(range(100))}, "bucket") as played:
        played.answer_get = lambda answer, _key, data, _first, _last: answer.say(
            206, data[:10], {"Content-Range": said}
        )
        with pytest.raises(RemoteReadFailed, match="failed to download file bucket/a: the service sent another range"):
            free(s3_conf(played)).read("bucket", "a", 10, 10)


def test_the_text_of_an_error_is_not_unpacked():
    """A short text could be made long."""
    packed = gzip.compress(bytes(1 << 20))
    with played_s3({"a": b"x"}, "bucket") as played:
        played.answer_get = lambda answer, *_: answer.say(500, packed, {"Content-Encoding": "gzip"})
        with pytest.raises(RemoteReadFailed) as caught:
            free(s3_conf(played)).read("bucket", "a", 0, 1)
    assert packed.decode("utf-8", "replace") in str(caught.value)


def test_a_read_asks_for_the_object_alone_and_leaves_no_thread(service):
    """Google's client would also ask for the bucket, and ask again for two minutes where that is refused."""
    double, client = service
    before = set(threading.enumerate())
    client.read("bucket", NAME, 0, 10)
    left = [thread.name for thread in set(threading.enumerate()) - before]
    assert not [name for name in left if "process_request_thread" not in name]
    assert len([path for path, _ in double.requests if path != "/token"]) == 1


def test_what_is_not_there_is_not_read(service):
    with pytest.raises(RemoteReadFailed, match="failed to download file bucket/none: "):
        service[1].read("bucket", "none", 0, 10)


def test_a_range_beyond_the_end_is_not_read(service):
    with pytest.raises(RemoteReadFailed, match="got 5 bytes, want 10"):
        service[1].read("bucket", NAME, len(OBJECT) - 5, 10)
    with pytest.raises(RemoteReadFailed):
        service[1].read("bucket", NAME, len(OBJECT) + 5, 10)


@needs_gcs
def test_fewer_bytes_than_asked_for_are_no_object(gcs):
    gcs.cuts_at_bytes = 99
    with pytest.raises(RemoteReadFailed, match="got 99 bytes, want 100"):
        free(gcs_conf(gcs)).read("bucket", NAME, 0, 100)


@needs_azure
def test_azures_client_asks_again_for_what_did_not_come(azure):
    azure.cuts_at_bytes = 99
    assert free(azure_conf(azure)).read("bucket", NAME, 0, 100) == OBJECT[:100]
    assert [headers["x-ms-range"] for _, headers in azure.requests] == ["bytes=0-99", "bytes=99-99"]


def test_proxies_of_the_environment_are_not_used(service, monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert service[1].read("bucket", NAME, 0, 10) == OBJECT[:10]


@pytest.mark.parametrize("kind", ["gcs", "azure"])
def test_a_kind_without_its_library_says_how_to_install_it(kind, monkeypatch):
    """As on a machine where the extra is not installed."""
    library = {"gcs": "google.cloud", "azure": "azure"}[kind]
    usual = builtins.__import__

    def without(name, *args, **kwargs):
        if name == library or name.startswith(library + "."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return usual(name, *args, **kwargs)

    for loaded in [name for name in sys.modules if name.startswith((library, "native_handlers.remote."))]:
        if loaded.startswith(library) or loaded.endswith(("gcs_objects", "azure_objects")):
            monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RemoteStorageUnusable) as caught:
        free(RemoteConf(type=kind))
    assert caught.value.is_missing_extra
    assert f"remote storage type {kind} (" in str(caught.value)
    assert str(caught.value).endswith(f"pip install 'weed-volume-py[{kind}]'")


@pytest.mark.parametrize("sends_chunks", [False, True])
def test_a_host_that_sends_more_and_more_is_not_heard(service, sends_chunks):
    double, client = service
    double.excess, double.sends_chunks = bytes(32 << 20), sends_chunks
    with pytest.raises(RemoteReadFailed, match="the host sent more than 5242880 bytes"):
        client.read("bucket", NAME, 0, 10)


@needs_gcs
def test_a_token_without_end_is_not_read(gcs):
    gcs.token_excess = b" " * (32 << 20)
    with pytest.raises(RemoteReadFailed, match="the host sent more than 5242880 bytes"):
        free(gcs_conf(gcs)).read("bucket", NAME, 0, 10)


@needs_gcs
def test_a_packed_token_is_not_unpacked_without_end(gcs):
    """A few KiB could be made gigabytes."""
    gcs.packed_token = gzip.compress(b" " * (32 << 20), 1)
    with pytest.raises(RemoteReadFailed, match="the host sent more than 5242880 bytes"):
        free(gcs_conf(gcs)).read("bucket", NAME, 0, 10)


# ---- Google Cloud Storage


@needs_gcs
def test_callers_may_not_send_the_token_request_into_this_network(gcs):
    with pytest.raises(EndpointRefused, match="loopback"):
        guarded(gcs_conf(gcs))
    assert not gcs.requests


@needs_gcs
def test_the_addresses_of_google_are_checked_where_they_are_dialled(gcs, monkeypatch):
    """The name of the token service has become one of this machine since it was checked."""
    monkeypatch.setattr("native_handlers.remote.gcs_objects.check_endpoint", lambda _endpoint: None)
    with pytest.raises(RemoteReadFailed, match="resolves to loopback address"):
        guarded(gcs_conf(gcs)).read("bucket", NAME, 0, 10)
    assert not gcs.requests


@needs_gcs
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("/etc/passwd", "gcs credentials must be inline JSON"),
        ('{"type": "external_account"}', 'gcs credential type "external_account" is not accepted here'),
        ('{"type": "impersonated_service_account"}', "is not accepted here"),
        ("{}", 'gcs credential type "" is not accepted here'),
        ('{"type": ["service_account"]}', "is not accepted here"),
    ],
)
def test_credentials_that_callers_may_not_give(text, why):
    with pytest.raises(RemoteStorageUnusable) as caught:
        guarded(RemoteConf(type="gcs", gcs_google_application_credentials=text))
    assert caught.value.is_refusal
    assert why in str(caught.value)


@needs_gcs
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "parse gcs credentials: "),
        ('{"type": "service_account"}', "failed to parse credentials: "),
        ('{"type": "authorized_user"}', "failed to parse credentials: "),
    ],
)
def test_credentials_that_are_none(text, why):
    with pytest.raises(RemoteStorageUnusable, match=why):
        free(RemoteConf(type="gcs", gcs_google_application_credentials=text))


@needs_gcs
def test_credentials_of_another_cloud_do_not_choose_the_host(gcs):
    """Google's client would dial storage.<universe_domain>."""
    with pytest.raises(RemoteStorageUnusable, match="failed to create client"):
        free(gcs_conf(gcs, universe_domain="other.example"))


@needs_gcs
def test_a_wrong_key_is_refused_by_the_service(gcs):
    other = GcsDouble({}, make_key())
    other.address = gcs.address
    with pytest.raises(RemoteReadFailed, match="invalid_grant"):
        free(gcs_conf(other)).read("bucket", NAME, 0, 10)


@needs_gcs
def test_without_credentials_those_of_the_server_are_used(gcs, tmp_path):
    path = tmp_path / "key.json"
    path.write_text(gcs.credentials())
    client = guarded(RemoteConf(type="gcs"), {"GOOGLE_APPLICATION_CREDENTIALS": str(path)})
    assert client.read("bucket", NAME, 5, 10) == OBJECT[5:15]
    with pytest.raises(RemoteStorageUnusable, match="failed to read credentials file"):
        guarded(RemoteConf(type="gcs"), {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "none")})


@needs_gcs
def test_where_a_users_token_would_come_from_is_looked_at_too(gcs):
    document = {"type": "authorized_user", "client_id": "a", "client_secret": "b", "refresh_token": "c"}
    text = json.dumps({**document, "token_uri": f"{gcs.address}/token"})
    with pytest.raises(EndpointRefused, match="loopback"):
        guarded(RemoteConf(type="gcs", gcs_google_application_credentials=text))


# ---- Azure


@needs_azure
def test_callers_may_not_name_this_machine_for_azure(azure):
    with pytest.raises(EndpointRefused, match="loopback"):
        guarded(azure_conf(azure))


@needs_azure
def test_an_azure_endpoint_is_checked_where_it_is_dialled(azure, monkeypatch):
    monkeypatch.setattr("native_handlers.remote.azure_objects.check_endpoint", lambda _endpoint: None)
    with pytest.raises(RemoteReadFailed, match="resolves to loopback address"):
        guarded(azure_conf(azure)).read("bucket", NAME, 0, 10)
    assert not azure.requests


@needs_azure
def test_a_wrong_account_key_is_refused_by_the_service(azure):
    with pytest.raises(RemoteReadFailed, match="failed to download file"):
        free(azure_conf(azure, azure_account_key="AAAA")).read("bucket", NAME, 0, 10)


@needs_azure
def test_a_certificate_that_nobody_vouches_for_is_refused(azure, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(RemoteReadFailed, match=r"(?i)certificate"):
        free(azure_conf(azure)).read("bucket", NAME, 0, 10)
    assert not azure.requests


@needs_azure
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"azure_account_name": ""}, "neither azure_account_name nor the AZURE_STORAGE_ACCOUNT"),
        ({"azure_account_name": "evil.example/x"}, "expecting 3 to 24 lowercase letters and digits"),
        ({"azure_account_name": "account1\n"}, "expecting 3 to 24 lowercase letters and digits"),
        ({"azure_account_key": ""}, "an account key is needed"),
        ({"azure_endpoint": "http://blobs.example/"}, "expecting an https service url"),
        ({"azure_endpoint": "https://[::1"}, "expecting an https service url"),
    ],
)
def test_azure_accounts_that_cannot_be_used(azure, changes, why):
    with pytest.raises(RemoteStorageUnusable, match=why):
        free(azure_conf(azure, **changes))


@needs_azure
def test_the_account_is_completed_from_the_environment(azure):
    conf = RemoteConf(type="azure", azure_endpoint=azure.address)
    environ = {"AZURE_STORAGE_ACCOUNT": azure.account, "AZURE_STORAGE_ACCESS_KEY": azure.key}
    assert free(conf, environ).read("bucket", NAME, 0, 10) == OBJECT[:10]
    conf.azure_client_id = "11111111-1111-1111-1111-111111111111"
    with pytest.raises(RemoteStorageUnusable, match="an account key is needed"):
        free(conf, environ)
