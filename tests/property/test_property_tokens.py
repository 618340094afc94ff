"""The token of a request is for the needle that the request reads, writes or deletes. For the native side, a store
records the needles that handlers use. The forwarded side is a model of the ids that upstream checks and of those that
it then uses (weed/server/common.go parseURLPath, weed/storage/needle/needle.go CreateNeedleFromRequest): two different
readings of the path.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import urlsafe_b64encode
from contextlib import suppress
from urllib.parse import quote, unquote_to_bytes

import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st
from support.security import check_token
from support.stores import open_at

from native_handlers.format.errors import BadFileId
from native_handlers.format.fid import parse_file_id, parse_needle_id_cookie, parse_volume_id
from native_handlers.http.context import HttpContext
from native_handlers.http.settings import HttpSettings
from native_handlers.http_model.headers import Headers
from native_handlers.http_model.message import Listener, Request, RequestBody, Response
from supervisor.config.config import HttpsClientConfig, JwtKey, SecurityConfig, TlsFiles
from supervisor.gateway.guard import Guard
from supervisor.gateway.http import HttpGateway
from supervisor.routing.live import LiveTable
from supervisor.routing.native import NATIVE_HTTP
from supervisor.routing.table import table_forwarding_all, table_native
from supervisor.wire.jwt import BadToken

KEY = b"k" * 32
SECURITY = SecurityConfig(
    write_key=JwtKey(KEY, 10),
    read_key=JwtKey(KEY, 10),
    ui_access=False,
    white_list=(),
    grpc=TlsFiles(),
    https=TlsFiles(),
    https_client=HttpsClientConfig(),
)
SETTINGS = HttpSettings(version="30GB 4.44", self_url="127.0.0.1:8080", file_size_limit_bytes=1 << 20)
OWN, OTHER = "01aabbccdd", "02aabbccdd"
VOLUMES = (3, 7)
PIECES = st.sampled_from(
    [OWN, OTHER, "3", "7", ",", "/", ".", "_", "_1", "x", "01", "0", ".,", "_x,", "%2C", "%2F", "%30", "4294967303"]
)
PATHS = st.one_of(
    st.lists(PIECES, max_size=9).map(lambda pieces: "/" + "".join(pieces)),
    st.builds(
        "/{}{}{}{}{}".format,
        st.sampled_from(["3", "7", "07", "4294967303"]),
        st.sampled_from([",", "/", "%2C", "%2f"]),
        st.sampled_from([OWN, OTHER, f"{OWN}_1", f"{OWN}_x,{OTHER}", f"{OWN}.,{OTHER}", OWN.upper(), f"00{OWN}"]),
        st.sampled_from(["", "/", "/x,", ".,", "_x,", ".jpg/", "_1/a,"]),
        st.sampled_from(["", OTHER, OWN, f"{OTHER}_1", f"{OTHER}.jpg"]),
    ),
)
FIDS = st.sampled_from([f"7,{OWN}", f"7,{OTHER}", f"3,{OWN}", f"07,{OWN}", f"4294967303,{OWN}", f"7,{OWN.upper()}"])
METHODS = st.sampled_from(["GET", "HEAD", "PUT", "POST", "DELETE"])
KNOWN = [f"/7/{OWN}/x,{OTHER}", f"/7/{OWN}_x,{OTHER}", f"/7/{OWN}.,{OTHER}", f"/7%2F{OWN}%2Fx%2C{OTHER}"]
"""With a token for the first file, upstream writes the second one."""
DEEP = f"/{'a' * 9}/b/c/d/7x{OWN}"
MISREAD = f"{DEEP}{'x' * (2 * len(DEEP))},.jpg"


def token_for(fid):
    def part(value):
        return urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    signed = part({"alg": "HS256", "typ": "JWT"}) + b"." + part({"fid": fid})
    return (signed + b"." + urlsafe_b64encode(hmac.digest(KEY, signed, hashlib.sha256)).rstrip(b"=")).decode()


def is_named(fid, volume_id, needle_id, path):
    """Whether a token for `fid` is for the needle: for the file itself, or for a following file if the path has a
    `_`.
    """
    named = parse_file_id(fid)
    if named.volume_id != volume_id:
        return False
    return needle_id == named.needle_id or ("_" in path and needle_id > named.needle_id)


class SpyVolume:
    """A volume that records the needles that handlers ask for."""

    def __init__(self, volume, touched):
        self._volume, self._touched = volume, touched

    def __getattr__(self, name):
        return getattr(self._volume, name)

    def read(self, needle_id, **options):
        self._touched.append((self._volume.id, needle_id))
        return self._volume.read(needle_id, **options)

    def write(self, needle, **options):
        self._touched.append((self._volume.id, needle.needle_id))
        return self._volume.write(needle, **options)

    def delete(self, needle_id, *arguments, **options):
        self._touched.append((self._volume.id, needle_id))
        return self._volume.delete(needle_id, *arguments, **options)


class Spy:
    """A store whose volumes record the needles that handlers ask for."""

    def __init__(self, store):
        self._store = store
        self.touched = []
        self._volumes = {}

    def __getattr__(self, name):
        return getattr(self._store, name)

    def find_volume(self, volume_id):
        volume = self._store.find_volume(volume_id)
        return volume and self._spied(volume)

    def get_volume(self, volume_id, *where):
        return self._spied(self._store.get_volume(volume_id, *where))

    def _spied(self, volume):
        """The same object each time: handlers compare it to see whether the volume was replaced."""
        return self._volumes.setdefault(volume, SpyVolume(volume, self.touched))


class Body(RequestBody):
    length_bytes = 0

    async def receive_some(self):
        return b""

    async def receive_into(self, _buffer):
        return 0


def make_request(method, target, fid):
    headers = Headers([("Authorization", f"Bearer {token_for(fid)}")])
    return Request(method, target, headers, Body(), Listener.ADMIN, "127.0.0.1", 1, "ID")


@pytest.fixture(scope="module")
def spy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spied")
    store = open_at(folder)
    for volume_id in VOLUMES:
        store.allocate_volume(volume_id)
    yield Spy(store)
    store.close()


@pytest.fixture(scope="module")
def native(spy):
    context = HttpContext(settings=SETTINGS, node=None, store=spy)
    return HttpGateway(LiveTable(table_native(NATIVE_HTTP)), NATIVE_HTTP, context, None, Guard(SECURITY))


@given(method=METHODS, path=PATHS, fid=FIDS)
@example(method="PUT", path=KNOWN[0], fid=f"7,{OWN}")
@example(method="POST", path=KNOWN[1], fid=f"7,{OWN}")
@example(method="PUT", path=KNOWN[2], fid=f"7,{OWN}")
def test_a_native_request_touches_what_its_token_names(native, spy, method, path, fid):
    spy.touched.clear()
    trio.run(native.handle, make_request(method, path, fid))
    assert all(is_named(fid, *touched, path) for touched in spy.touched), spy.touched


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_the_spy_sees_what_a_good_token_lets_through(native, spy, method):
    spy.touched.clear()
    trio.run(native.handle, make_request(method, f"/7,{OWN}_1", f"7,{OWN}"))
    assert (7, 2) in spy.touched


class Upstream:
    """A backend that checks and uses ids as upstream does, and records the needles that it would change."""

    def __init__(self):
        self.touched = []

    async def forward(self, request):
        path = unquote_to_bytes(request.target.partition("?")[0]).decode("latin-1")
        token = request.headers.get("Authorization").removeprefix("Bearer ")
        with suppress(BadFileId, BadToken, Broken):
            volume_text, file_text = checked_by_upstream(path)
            volume_id = parse_volume_id(volume_text)
            base = file_text[: file_text.rfind("_")] if file_text.rfind("_") > 0 else file_text
            check_token(token, KEY, f"{volume_text},{base}", 0)
            used = uploaded_by_upstream(path) if request.method in {"PUT", "POST"} else file_text
            self.touched.append((volume_id, parse_needle_id_cookie(used)[0]))
        return Response(200)


class Broken(Exception):
    """Upstream's server breaks the connection."""


def cut(text, start, end):
    if not 0 <= start <= end <= len(text):
        raise Broken
    return text[start:end]


def checked_by_upstream(path):
    parts = path.split("/")
    if len(parts) == 4:
        return parts[1], parts[2]
    if len(parts) == 3:
        dot = parts[2].rfind(".")
        return parts[1], parts[2][:dot] if dot > 0 else parts[2]
    slash = path.rfind("/")
    comma, dot = path[slash:].rfind(","), path[slash:].rfind(".")
    if comma <= 0:
        return path[slash + 1 :], ""
    volume_text = cut(path, slash + 1, comma)
    return volume_text, cut(path, comma + 1, dot if dot > 0 else len(path))


def uploaded_by_upstream(path):
    comma, dot = path.rfind(","), path.rfind(".")
    return path[comma + 1 : dot] if dot > comma else path[comma + 1 :]


@given(method=METHODS, path=PATHS, fid=FIDS)
@example(method="PUT", path=KNOWN[0], fid=f"7,{OWN}")
@example(method="PUT", path=KNOWN[3], fid=f"7,{OWN}")
@example(method="GET", path=MISREAD, fid=f"7,{OWN}")
def test_a_forwarded_request_touches_what_its_token_names(method, path, fid):
    upstream = Upstream()
    context = HttpContext(settings=SETTINGS, node=None)
    front = HttpGateway(LiveTable(table_forwarding_all()), {}, context, upstream, Guard(SECURITY))
    request = make_request(method, path, fid)
    trio.run(front.handle, request)
    for volume_id, needle_id in upstream.touched:
        assert is_named(fid, volume_id, needle_id, path)
        assert request.parsed.volume_id == volume_id, "the volume that the authority was asked for"


@pytest.mark.parametrize("path", KNOWN)
def test_without_the_front_upstream_writes_another_file(path):
    """Proves that the model above has the fault that the front prevents."""
    upstream = Upstream()
    trio.run(upstream.forward, make_request("PUT", quote(path, safe="/%,_."), f"7,{OWN}"))
    assert upstream.touched == [(7, 2)]
