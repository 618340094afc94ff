"""A source of volumes for VolumeCopy: a real store behind the client's interface, which can be told to misbehave."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import grpc

from native_handlers.format.needle import Needle
from native_handlers.grpc.context import RpcContext, RpcFailure
from native_handlers.grpc.copy_file import copy_file
from native_handlers.grpc.volumes import read_volume_file_status
from native_handlers.pb import volume_server_pb2 as pb

COOKIE = 0x637037D6
SOURCE = "10.0.0.2:8080"


class PeerError(grpc.RpcError):
    """What a call to a peer ends with."""

    def __init__(self, code, details):
        super().__init__(details)
        self._code, self._details = code, details

    def code(self):
        return self._code

    def details(self):
        return self._details


class Stream:
    """A server's stream as grpcio gives it: an iterator that another thread may cancel."""

    def __init__(self, messages):
        self._messages = iter(messages)
        self.is_cancelled = threading.Event()
        self.is_over = False

    def __iter__(self):
        return self

    def __next__(self):
        if self.is_cancelled.is_set():
            raise PeerError(grpc.StatusCode.CANCELLED, "Locally cancelled by application!")
        try:
            return next(self._messages)
        except RpcFailure as failure:
            raise PeerError(failure.code, failure.message) from failure
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
            raise PeerError(failure.code, failure.message) from failure

    def cancel(self):
        pass


class Unary:
    """A unary method."""

    def __init__(self, run):
        self._run = run

    def future(self, request):
        return Future(lambda: self._run(request))


class Source:
    """`peers` of the copying node. `asked` has every request; the hooks change what is answered."""

    def __init__(self, node):
        self.node = node
        self.asked = []
        self.streams = []
        self.is_connected = False
        self.change_status = lambda status: status
        self.change_stream = lambda request, messages: messages
        self.ReadVolumeFileStatus = Unary(self._status)

    @contextmanager
    def open_volume_server(self, address):
        assert address == SOURCE
        self.is_connected = True
        try:
            yield self
        finally:
            self.is_connected = False

    def _status(self, request):
        self.asked.append(request)
        return self.change_status(read_volume_file_status(self.node, None, request))

    def open_undecoded(self, name):
        assert name == "CopyFile"
        return self._copy_file

    def _copy_file(self, request):
        self.asked.append(request)
        messages = (pb.CopyFileResponse.FromString(one) for one in copy_file(self.node, None, request))
        changed = self.change_stream(request, messages)
        self.streams.append(Stream(message.SerializeToString() for message in changed))
        return self.streams[-1]


class Caller:
    """The client of a call: `context` is what a handler gets, `leave` ends it as a client that goes does."""

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
    """A volume with needles, one of them deleted; returns what reading each gives."""
    store.allocate_volume(volume_id, **fields)
    data = {needle_id: bytes([needle_id]) * size_bytes + seed for needle_id in range(1, count + 1)}
    for needle_id, payload in data.items():
        store.write_needle(volume_id, Needle(cookie=COOKIE, needle_id=needle_id, data=payload))
    store.delete_needle(volume_id, count, COOKIE)
    del data[count]
    return data


def contents(store, data, volume_id=7):
    """What reading the needles of `data` gives now."""
    return {key: store.read_needle(volume_id, key, cookie=COOKIE).needle.data for key in data}
