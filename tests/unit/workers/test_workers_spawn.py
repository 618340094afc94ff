"""Workers as processes: those that start before the server, and the descriptors that they are sent."""

import os
import socket
import sys
from contextlib import ExitStack

import pytest
from support.descriptors import open_descriptors
from support.waiting import LIMIT_S

from supervisor.backend.errors import BackendStartFailed
from supervisor.backend.launch import launch
from supervisor.workers.errors import WorkersGaveUp
from supervisor.workers.spawn import (
    MAX_DESCRIPTORS,
    EarlyWorkers,
    SpawnedWorker,
    WorkerKind,
    check_sendable,
    receive_descriptors,
    send_descriptors,
    spawn_worker,
)

TWELVE_DIRECTORIES = 4 + 12
"""Both listeners, the board, the private socket, and the lock of each directory."""


@pytest.fixture
def ends():
    """Both ends of a control channel: a worker without a process, and a socket."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield SpawnedWorker(None, -1, ours), theirs


@pytest.mark.parametrize("count", [0, 1, TWELVE_DIRECTORIES, MAX_DESCRIPTORS])
def test_descriptors_arrive_as_copies_under_numbers_of_their_own(ends, count):
    worker, theirs = ends
    with ExitStack() as opened:
        pipes = [os.pipe() for _ in range(count)]
        for descriptor in (one for pipe in pipes for one in pipe):
            opened.callback(os.close, descriptor)
        send_descriptors(worker, [write for _, write in pipes])
        worker.channel.send(b"the next message")
        here = receive_descriptors(theirs)
        assert list(here) == [write for _, write in pipes]
        for number, (read, write) in enumerate(pipes):
            opened.callback(os.close, here[write])
            assert here[write] != write
            assert not os.get_inheritable(here[write])
            os.write(here[write], b"%d" % number)
            assert os.read(read, 10) == b"%d" % number
    assert theirs.recv(100) == b"the next message"
    with pytest.raises(BlockingIOError):
        theirs.recv(1)


def test_more_descriptors_than_the_kernel_passes_are_refused_in_words():
    check_sendable(range(MAX_DESCRIPTORS))
    with pytest.raises(WorkersGaveUp, match=r"needs 254 descriptors .* serve fewer directories"):
        check_sendable(range(MAX_DESCRIPTORS + 1))


def test_a_parent_that_closes_the_channel_sends_none(ends):
    worker, theirs = ends
    worker.channel.close()
    assert receive_descriptors(theirs) is None


def test_a_worker_that_has_ended_gets_none_and_leaves_nothing():
    before = open_descriptors()
    ours, theirs = socket.socketpair()
    popen, pidfd = launch(["/bin/true"])
    theirs.close()
    with pytest.raises(BackendStartFailed):
        send_descriptors(SpawnedWorker(popen, pidfd, ours), [0])
    assert popen.returncode is not None
    assert open_descriptors() <= before


@pytest.mark.slow
@pytest.mark.parametrize("kind", [None, *WorkerKind])
def test_a_worker_ends_with_its_channel_while_it_waits(kind):
    """Slow: starts a program."""
    worker = spawn_worker(kind)
    worker.channel.close()
    try:
        assert worker.popen.wait(LIMIT_S) == 0
    finally:
        worker.end()


@pytest.mark.slow
def test_early_workers_are_taken_once_and_those_that_are_left_are_ended():
    """Slow: starts programs."""
    early = EarlyWorkers()
    try:
        early.spawn(3, WorkerKind.NATIVE)
        taken = early.take()
        left = [early.take(), early.take()]
        assert early.take() is None
        assert len({worker.popen.pid for worker in (taken, *left)}) == 3
    finally:
        for worker in (taken, *left):
            worker.end()
    early.spawn(1, WorkerKind.NATIVE)
    early.end()
    assert early.take() is None


def test_a_system_without_room_starts_fewer_and_says_nothing_yet(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/python")
    early = EarlyWorkers()
    early.spawn(2, None)
    assert early.take() is None
    with pytest.raises(BackendStartFailed):
        spawn_worker(None)
