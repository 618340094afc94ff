"""Messages with odd values in every field, to every RPC: no call finds a bug, and the server goes on.

A call may be refused or fail in any way but INTERNAL, which is the code of a bug of this program. Nothing is logged
with a traceback, and nothing is made beside the server's files. The server has a certificate for its calls to others.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
from contextlib import contextmanager
from functools import cache, partial
from itertools import islice

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import given, settings
from hypothesis import strategies as st
from support.certificate_authority import Authority
from support.files import UnsyncedFiles
from support.grpc_nodes import make_node
from support.stores import open_at

from native_handlers.format.needle import Needle
from native_handlers.grpc.context import RpcContext
from native_handlers.grpc.handlers import BYTES_HANDLERS, GRPC_HANDLERS, RPC_NAMES
from native_handlers.grpc.state_keeper import StoreStateKeeper
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.pb.methods import VOLUME_SERVER_METHODS
from supervisor.config.config import TlsFiles
from supervisor.gateway.grpc import failure_of
from supervisor.gateway.grpc_volume_servers import DialledVolumeServers
from supervisor.net.channel import open_channel

PLAIN, CODED, IN_COLLECTION = 7, 8, 10
IDS = (PLAIN, CODED, IN_COLLECTION)
COLLECTION, COOKIE = "c", 5
DOCUMENT = b'{"a":[1,{"b":"x"}]}'
CALL_S = 0.05
"""After so long the client goes: some calls follow a volume for ever. A call that a slow machine cuts shows nothing."""
READ_MESSAGES = 50
MAX_RESERVED_BYTES = 1 << 20
INTERNAL = grpc.StatusCode.INTERNAL

# ---- values

RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
NUMBERS = (
    0, 1, 2, 3, 5, 9, 13, 14, 31, 32, 255, 1000, -1, -2, 2**31 - 1, 2**31, -(2**31), 2**32 - 1, 2**63 - 1, -(2**63),
    2**64 - 1,
)  # fmt: skip
ADDRESSES = ("127.0.0.1:1", "127.0.0.1:1.1", "127.0.0.1:x", "a..b:80", ".x:80", "[::1]:1.1", ":", "http://127.0.0.1:1/")
TEXTS = (
    "", COLLECTION, "a/b", "../../../x", "..", ".", "/", "/tmp", "a\0b", "x" * 300, "\u00e9", "\u2028", "#", "{", "%s",
    "*.a", "a.#(b==1)", "@this", "a.b", "\\", "=", ">", "|", "[", "7,0100000005", "8,0100000005", "7,01", "-1,01",
    ".dat", ".idx", ".vif", ".ec00", ".ec99", ".ecx", ".ecj", "000", "001", "999", "zz", "1h", "3d", "-1m", "hdd",
    "s3.default", "volumeServer", "master", "filer", *ADDRESSES,
)  # fmt: skip
"""None of them is a kind of remote storage, which would be asked at its real host, or a name that is looked up."""
CONTENTS = (b"", b"x", DOCUMENT, bytes(40), bytes(range(256)) * 12)
FRACTIONS = (0.0, 1.5, -1.0, float("inf"), float("nan"))


@cache
def values(field):
    """The odd values of a field that is no message."""
    if field.cpp_type in RANGES:
        least, most = RANGES[field.cpp_type]
        usual = [number for number in NUMBERS if least <= number <= most]
        return [*IDS, *usual] if "volume_id" in field.name else usual
    if field.type == FieldDescriptor.TYPE_BYTES:
        return CONTENTS
    return {
        FieldDescriptor.CPPTYPE_BOOL: (False, True),
        FieldDescriptor.CPPTYPE_STRING: TEXTS,
        FieldDescriptor.CPPTYPE_ENUM: (0, 1, 2, 3, 4, 99, -1),
        FieldDescriptor.CPPTYPE_FLOAT: FRACTIONS,
        FieldDescriptor.CPPTYPE_DOUBLE: FRACTIONS,
    }[field.cpp_type]


@cache
def drawn(field):
    """A strategy for such a field. Volumes that exist and addresses are drawn more often than by their number."""
    if "volume_id" in field.name:
        return st.sampled_from([*IDS * 6, *values(field)])
    if field.name.startswith("source"):
        return st.sampled_from([*ADDRESSES * 6, *values(field)])
    return st.sampled_from(values(field))


def set_field(message, field, value, count=1):
    if field.is_repeated:
        getattr(message, field.name).extend([value] * count)
    else:
        setattr(message, field.name, value)


def is_left_alone(field):
    """The credentials of remote storage mean nothing where its kind is unknown."""
    return field.containing_type.name == "RemoteConf" and field.name not in {"type", "name"}


def fill(draw, message):
    """Fills most fields of a message, and the messages in it."""
    for field in message.DESCRIPTOR.fields:
        how_many = 0 if is_left_alone(field) else draw(st.sampled_from((0, 0, 1, 1, 1, 300)))
        if not how_many:
            continue
        if field.message_type is None:
            set_field(message, field, draw(drawn(field)), how_many)
        elif not field.message_type.GetOptions().map_entry:
            part = getattr(message, field.name)
            fill(draw, part.add() if field.is_repeated else part)
            if not field.is_repeated:
                part.SetInParent()
    return message


@st.composite
def calls(draw):
    """Some RPCs in any order, each with its messages."""
    made = []
    for name in draw(st.lists(st.sampled_from(sorted(RPC_NAMES)), min_size=20, max_size=60)):
        method = VOLUME_SERVER_METHODS[name]
        count = draw(st.integers(0, 3)) if method.client_streaming else 1
        made.append((name, [fill(draw, method.request_class()) for _ in range(count)]))
    return made


def with_one_odd_field(message_class, volume_id):
    """Messages about a volume, each with one odd value in one field."""
    for message, _ in _with_one_odd_field(message_class(), lambda message: message, volume_id):
        yield message


def _with_one_odd_field(whole, part_of, volume_id):
    for field in part_of(whole).DESCRIPTOR.fields:
        if is_left_alone(field):
            continue
        if field.message_type is None:
            for value in values(field):
                message = type(whole)()
                part = part_of(message)
                if "volume_id" in part.DESCRIPTOR.fields_by_name:
                    part.volume_id = volume_id
                set_field(part, field, value)
                yield message, part
        elif not field.message_type.GetOptions().map_entry:

            def inner(message, field=field):
                found = getattr(part_of(message), field.name)
                return found.add() if field.is_repeated else found

            yield from _with_one_odd_field(whole, inner, volume_id)


# ---- the server


class SmallReservations(UnsyncedFiles):
    """A file system that reserves little at once. Messages may ask for any size."""

    def allocate(self, descriptor, length_bytes):
        if length_bytes > MAX_RESERVED_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().allocate(descriptor, length_bytes)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """The files of a server: a plain volume, one of a collection, and the shards of a third one."""
    directory = tmp_path_factory.mktemp("template")
    store = open_at(directory)
    for volume_id in IDS:
        volume = store.allocate_volume(volume_id, collection=COLLECTION if volume_id == IN_COLLECTION else "")
        for number in range(1, 6):
            volume.write(Needle(needle_id=number, cookie=COOKIE, data=DOCUMENT if number == 1 else bytes(3000)))
    store.ec_work.generate(store.find_volume(CODED), "")
    store.delete_volume(CODED, only_empty=False)
    store.close()
    return directory


def copy_of(path, target):
    # No handler writes to a shard in place.
    (os.link if path.endswith(tuple(f".ec{shard:02d}" for shard in range(14))) else shutil.copy)(path, target)


@pytest.fixture(scope="module")
def dial(tmp_path_factory):
    """Makes channels to other servers."""
    authority = Authority(tmp_path_factory.mktemp("authority"))
    certificate, key = authority.issue("here")
    return partial(open_channel, tls=TlsFiles(cert=certificate, key=key, ca=authority.ca))


@pytest.fixture(scope="module")
def server(tmp_path_factory, template, dial):
    """Serves the volumes, or none, from a new directory. At the end nothing may have been made beside the files."""

    @contextmanager
    def serve(*, is_empty):
        outer = tmp_path_factory.mktemp("hostile")
        data = outer / "one" / "two" / "data"
        if is_empty:
            data.mkdir(parents=True)
        else:
            shutil.copytree(template, data, copy_function=copy_of)
        store = open_at(data, files=SmallReservations())
        before = directories_and_strangers(outer, data)
        try:
            servers = DialledVolumeServers(dial)
            yield make_node(data, store, state=StoreStateKeeper(store), volume_servers=servers)
        finally:
            store.close()
        assert directories_and_strangers(outer, data) == before
        shutil.rmtree(outer)

    return serve


def directories_and_strangers(outer, data):
    """All directories, and the files that are not in the server's."""
    return {path for path in outer.rglob("*") if path.is_dir() or path.parent != data}


# ---- calls


class PlayedCall:
    """A call whose client goes after `CALL_S`."""

    def __init__(self):
        self._is_over = threading.Event()
        self._callbacks = []
        self._timer = threading.Timer(CALL_S, self.end)
        self._timer.daemon = True

    def context(self):
        return RpcContext("10.0.0.1", 5, (), "id", self._is_active, self._add, lambda: CALL_S)

    def _is_active(self):
        self._begin()
        return not self._is_over.is_set()

    def _add(self, callback):
        self._begin()
        self._callbacks.append(callback)
        return not self._is_over.is_set()

    def _begin(self):
        if self._timer.ident is None:
            self._timer.start()

    def end(self):
        self._is_over.set()
        self._timer.cancel()
        while self._callbacks:
            self._callbacks.pop()()


def code_of(node, name, messages):
    """The code with which the call ends. Of a long answer only the beginning is taken."""
    method, call = VOLUME_SERVER_METHODS[name], PlayedCall()
    try:
        if name in BYTES_HANDLERS:
            method.response_class.FromString(
                BYTES_HANDLERS[name](node, call.context(), messages[0].SerializeToString())
            )
            return grpc.StatusCode.OK
        argument = iter(messages) if method.client_streaming else messages[0]
        answer = GRPC_HANDLERS[name](node, call.context(), argument)
        for message in islice(answer, READ_MESSAGES) if method.server_streaming else [answer]:
            if not isinstance(message, bytes):
                message.SerializeToString()
        if method.server_streaming:
            answer.close()
    except Exception as error:  # noqa: BLE001  as the gateway
        return failure_of(error, f"grpc.{name}").code
    finally:
        call.end()
    return grpc.StatusCode.OK


@contextmanager
def no_traceback():
    """Fails where something was logged with a traceback inside."""

    class Tracebacks(logging.Handler):
        def emit(self, record):
            if record.exc_info and record.exc_info[0] is not None:
                found.append(self.format(record))

    found, handler = [], Tracebacks()
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
    assert found == []


def still_serves(node):
    return code_of(node, "VolumeServerStatus", [pb.VolumeServerStatusRequest()]) is grpc.StatusCode.OK


@pytest.mark.slow
@pytest.mark.parametrize("is_empty", [False, True])
@pytest.mark.parametrize("name", sorted(RPC_NAMES))
def test_no_odd_field_finds_a_bug(server, name, is_empty):
    """Takes long because it makes hundreds of calls."""
    message_class = VOLUME_SERVER_METHODS[name].request_class
    with no_traceback(), server(is_empty=is_empty) as node:
        for message in with_one_odd_field(message_class, CODED if "Ec" in name else PLAIN):
            assert code_of(node, name, [message]) is not INTERNAL, message
        assert still_serves(node)


@pytest.mark.slow
@settings(max_examples=max(settings().max_examples // 2, 1))
@given(hostile=calls(), is_empty=st.sampled_from((False, False, True)))
def test_no_messages_find_a_bug_together(server, hostile, is_empty):
    """Takes long because it opens a store for each example."""
    with no_traceback(), server(is_empty=is_empty) as node:
        for name, messages in hostile:
            assert code_of(node, name, messages) is not INTERNAL, (name, messages)
        assert still_serves(node)
