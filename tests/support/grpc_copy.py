"""A source of volumes for VolumeCopy: a real store behind the client's interface, which can misbehave."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import grpc

from native_handlers.format.needle import Needle
from native_handlers.grpc.context import RpcContext, RpcFailure
from native_handlers.grpc.copy_file import copy_file
from native_handlers.grpc.tail_sender import volume_tail_sender
from native_handlers.grpc.volumes import read_volume_file_status, volume_status
from native_handlers.pb import volume_server_pb2 as pb

COOKIE = 0x637037D6
SOURCE = "10.0.0.2:8080"


class SourceFailed(grpc.RpcError):
    """The error of a call to another server."""

    def __init__(self, code, details):
        super().__init__(details)
        self._code, self._details = code, details

    def code(self):
        return self._code

    def details(self):
        return self._details


class Stream:
    """A stream of answers as grpcio gives it: an iterator that another thread may cancel."""

    def __init__(self, messages):
        self._messages = iter(messages)
        self.is_cancelled = threading.Event()
        self.is_over = False

    def __iter__(self):
        return self

    def __next__(self):
        if self.is_cancelled.is_set():
            raise SourceFailed(grpc.StatusCode.CANCELLED, "Locally cancelled by application!")
        try:
            return next(self._messages)
        except RpcFailure as failure:
            raise SourceFailed(failure.code, failure.message) from failure
        except StopIteration:
            self.is_over = True
            raise

    def cancel(self):
        self.is_cancelled.set()


class Future:
    """A unary call that is under way."""

    def __init__(self, run):
        self._run = run

    def result(self):
        try:
            return self._run()
        except RpcFailure as failure:
            raise SourceFailed(failure.code, failure.message) from failure

    def cancel(self):
        pass


class Unary:
    """A unary method."""

    def __init__(self, run):
        self._run = run

    def __call__(self, request, timeout=None):
        return Future(lambda: self._run(request)).result()

    def future(self, request, timeout=None):
        return Future(lambda: self._run(request))


def ended_after(timeout_s, caller, messages):
    """A stream with a deadline, as a client sees it."""
    ringing = threading.Timer(timeout_s, caller.leave)
    ringing.start()
    try:
        yield from messages
    finally:
        ringing.cancel()
    if not caller.is_here:
        raise RpcFailure("Deadline Exceeded", grpc.StatusCode.DEADLINE_EXCEEDED)


class PlayedSource:
    """`volume_servers` of the copying node. `asked` has every request; the hooks change the answers."""

    def __init__(self, node):
        self.node = node
        self.asked = []
        self.tails = []
        self.streams = []
        self.is_connected = False
        self.self_error = None
        self.change_status = lambda status: status
        self.change_stream = lambda request, messages: messages
        self.change_tail = lambda messages: messages
        self.on_clock = lambda: None
        self.ReadVolumeFileStatus = Unary(self._status)
        self.VolumeStatus = Unary(lambda request: volume_status(self.node, None, request))
        self.Ping = Unary(self._ping)

    @contextmanager
    def open_volume_server(self, address):
        assert address == SOURCE
        self.is_connected = True
        try:
            yield self
        finally:
            self.is_connected = False

    def is_self(self, error):
        return error.code() is self.self_error

    def _status(self, request):
        self.asked.append(request)
        return self.change_status(read_volume_file_status(self.node, None, request))

    def _ping(self, request):
        self.on_clock()
        return pb.PingResponse(start_time_ns=time.time_ns())

    def VolumeTailSender(self, request, timeout=None):  # noqa: N802  the RPC's name
        self.tails.append(request)
        caller = Caller()
        messages = ended_after(timeout, caller, volume_tail_sender(self.node, caller.context, request))
        self.streams.append(Stream(self.change_tail(messages)))
        return self.streams[-1]

    @property
    def undecoded(self):
        return SimpleNamespace(CopyFile=self._copy_file)

    def _copy_file(self, request):
        self.asked.append(request)
        messages = (pb.CopyFileResponse.FromString(one) for one in copy_file(self.node, None, request))
        changed = self.change_stream(request, messages)
        self.streams.append(Stream(message.SerializeToString() for message in changed))
        return self.streams[-1]


class Caller:
    """The client of a call: `context` is the handler's, `leave` ends the call as a client does that goes."""

    def __init__(self):
        self._callbacks = []
        self.is_here = True
        self.context = RpcContext("10.0.0.1", 5, (), "id", lambda: self.is_here, self._add, lambda: None)

    def _add(self, callback):
        if self.is_here:
            self._callbacks.append(callback)
        return self.is_here

    def leave(self):
        self.is_here = False
        for callback in self._callbacks:
            callback()


def fill(store, volume_id=7, *, count=20, size_bytes=3000, seed=b"n", **fields):
    """Makes a volume with needles, one of them deleted. Returns the expected data by needle id."""
    store.allocate_volume(volume_id, **fields)
    data = {needle_id: bytes([needle_id]) * size_bytes + seed for needle_id in range(1, count + 1)}
    for needle_id, payload in data.items():
        store.get_volume(volume_id).write(Needle(cookie=COOKIE, needle_id=needle_id, data=payload))
    store.get_volume(volume_id).delete(count, COOKIE)
    del data[count]
    return data


def contents(store, data, volume_id=7):
    """The data that reading the needles of `data` gives now."""
    return {key: store.get_volume(volume_id).read(key, cookie=COOKIE).needle.data for key in data}
