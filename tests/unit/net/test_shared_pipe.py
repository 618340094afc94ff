"""The pipe that many connections use in turn: it is empty after each use, whatever happens."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import closing, suppress

import pytest

from supervisor.net import splice as splice_module
from supervisor.net.splice import PIPE_BYTES, SharedPipe

BLOCK = os.urandom(PIPE_BYTES)


@pytest.fixture
def pipe():
    with closing(SharedPipe()) as made:
        assert made.is_there()
        yield made


@pytest.fixture
def pairs():
    """A connection from which bytes come, and one to which they go."""
    pairs = socket.socketpair(), socket.socketpair()
    for one in (*pairs[0], *pairs[1]):
        one.setblocking(False)
    yield pairs
    for one in (*pairs[0], *pairs[1]):
        one.close()


def test_bytes_pass_and_no_more_than_wanted(pipe, pairs):
    (server, source), (sink, client) = pairs
    server.send(b"hello there")
    assert pipe.fill(source.fileno(), 5) == 5
    assert not pipe.drain(sink.fileno(), 5)
    assert client.recv(100) == b"hello"
    assert source.recv(100) == b" there"


def test_nothing_that_has_arrived_and_the_end(pipe, pairs):
    (server, source), _ = pairs
    with pytest.raises(BlockingIOError):
        pipe.fill(source.fileno(), 100)
    server.close()
    assert pipe.fill(source.fileno(), 100) == 0


def test_what_the_sink_does_not_take_comes_back_and_the_pipe_is_empty(pipe, pairs):
    (server, source), (sink, client) = pairs
    with suppress(BlockingIOError):
        while True:
            sink.send(bytes(1000))
    sent = server.send(BLOCK)
    count = pipe.fill(source.fileno(), sent)
    assert pipe.drain(sink.fileno(), count) == BLOCK[:count]
    while client.recv(1 << 20) and not _is_drained(client):
        pass
    server.send(b"next")
    rest = sent - count
    while rest:
        rest -= len(source.recv(rest))
    assert pipe.fill(source.fileno(), 100) == 4
    assert not pipe.drain(sink.fileno(), 4)
    assert client.recv(100) == b"next"


def test_a_broken_sink_leaves_the_pipe_empty(pipe, pairs):
    (server, source), (sink, client) = pairs
    client.close()
    server.send(b"lost")
    assert pipe.fill(source.fileno(), 100) == 4
    with pytest.raises(OSError):  # noqa: PT011  the kernel says which
        pipe.drain(sink.fileno(), 4)
    server.send(b"kept")
    assert pipe.fill(source.fileno(), 100) == 4
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert not pipe.drain(ours.fileno(), 4)
        assert theirs.recv(100) == b"kept"


def test_without_descriptors_there_is_no_pipe(monkeypatch):
    def refuse(_flags):
        raise OSError(errno.EMFILE, "too many")

    monkeypatch.setattr(splice_module.os, "pipe2", refuse)
    with closing(SharedPipe()) as pipe:
        assert not pipe.is_there()
        monkeypatch.undo()
        assert pipe.is_there()


def _is_drained(client):
    try:
        client.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    return False
