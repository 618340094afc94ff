"""The supervision loop with a real child: a small program that obeys its words. Real clock, polled states."""

import logging
import os
import signal
import socket
import sys
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import grpc
import pytest
import trio
from support import backend_program
from support.descriptors import open_descriptors
from support.waiting import LIMIT_S, until

from supervisor.backend.channel import BackendChannel
from supervisor.backend.child import BackendSpec, is_serving, probe_pause_s, serve_backend
from supervisor.backend.errors import BackendGaveUp, BackendStartFailed
from supervisor.backend.handle import BackendState
from supervisor.backend.ports import BackendPorts
from supervisor.backend.restart_policy import RestartPolicy

FAKE = Path(backend_program.__file__)
EAGER = RestartPolicy(first_delay_s=0.01, max_delay_s=0.02)


def spec_of(*words, policy=EAGER, stop_grace_s=5.0):
    def command(ports):
        return [sys.executable, "-S", "-E", str(FAKE), str(ports.http), str(ports.grpc), *words]

    return BackendSpec("fake", command, stop_grace_s=stop_grace_s, policy=policy)


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


async def test_started_means_that_it_answers_and_a_stop_leaves_nothing(caplog):
    caplog.set_level(logging.INFO)
    before = open_descriptors()
    async with trio.open_nursery() as nursery:
        handle = await nursery.start(serve_backend, spec_of())
        assert handle.state is BackendState.READY
        pid = handle.pid
        with socket.create_connection(("127.0.0.1", handle.ports.http)) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200")
        assert handle.http_address == f"127.0.0.1:{handle.ports.http}"
        handle.request_stop()
    assert handle.state is BackendState.STOPPED
    assert handle.last_exit is not None
    assert handle.last_exit.status == 0
    assert not is_alive(pid)
    assert not open_descriptors() - before
    assert "volume.go:4 stopped" in caplog.text


@pytest.mark.slow
async def test_a_killed_child_comes_back_on_the_same_ports():
    """Slow: starts a child twice."""
    async with trio.open_nursery() as nursery:
        handle = await nursery.start(serve_backend, spec_of())
        first_pid, ports = handle.pid, handle.ports
        os.kill(first_pid, signal.SIGKILL)
        await until(lambda: not handle.is_ready)
        await until(lambda: handle.is_ready)
        assert handle.pid != first_pid
        assert handle.ports == ports
        assert (handle.restarts, handle.generation) == (1, 2)
        assert handle.last_exit.description == "SIGKILL"
        handle.request_stop()
    assert handle.state is BackendState.STOPPED


@pytest.mark.slow
async def test_a_child_that_never_gets_ready_ends_in_one_named_error_with_its_last_words():
    """Slow: starts a child four times."""
    with pytest.raises(BackendGaveUp, match="4 starts in a row") as raised:
        await serve_backend(spec_of("crash"))
    assert "volume.go:2 cannot go on" in str(raised.value)
    assert [ended.status for ended in raised.value.exits] == [3, 3, 3, 3]


@pytest.mark.slow
async def test_the_budget_counts_crashes_after_ready_too():
    """Slow: starts a child twice."""
    policy = RestartPolicy(first_delay_s=0.01, max_delay_s=0.02, max_exits_in_window=2)
    handles = []

    async def serve_and_crash_twice():
        async with trio.open_nursery() as nursery:
            handles.append(await nursery.start(serve_backend, spec_of(policy=policy)))
            for generation in (1, 2):
                await until(lambda wanted=generation: handles[0].is_ready and handles[0].generation == wanted)
                os.kill(handles[0].pid, signal.SIGKILL)

    with pytest.raises(ExceptionGroup) as raised:
        await serve_and_crash_twice()
    assert raised.group_contains(BackendGaveUp, match="ended 2 times within 120 s")
    assert handles[0].state is BackendState.FATAL


async def test_a_program_that_is_not_there_is_one_sentence(tmp_path):
    spec = BackendSpec("gone", lambda _: [str(tmp_path / "no-such-program")])
    with pytest.raises(BackendStartFailed, match=r"cannot start the backend .*no-such-program.*No such file"):
        await serve_backend(spec)


async def test_a_program_that_cannot_be_executed_is_one_sentence(tmp_path):
    (tmp_path / "plain").write_text("text")
    with pytest.raises(BackendStartFailed, match="not an executable file"):
        await serve_backend(BackendSpec("plain", lambda _: [str(tmp_path / "plain")]))


@pytest.mark.slow
async def test_a_child_that_ignores_the_request_is_killed_after_the_grace(caplog):
    """Slow: waits for the end of the grace."""
    async with trio.open_nursery() as nursery:
        handle = await nursery.start(serve_backend, spec_of("stubborn", stop_grace_s=0.1))
        pid = handle.pid
        handle.request_stop()
    assert handle.last_exit.description == "SIGKILL"
    assert not is_alive(pid)
    assert "did not stop within 0.1 s" in caplog.text


async def test_cancelling_stops_the_child_in_good_order():
    async with trio.open_nursery() as nursery:
        handle = await nursery.start(serve_backend, spec_of())
        pid = handle.pid
        nursery.cancel_scope.cancel()
    assert handle.state is BackendState.STOPPED
    assert handle.last_exit.status == 0
    assert not is_alive(pid)


async def test_cancelling_during_the_start_leaves_no_child():
    found = []

    def command(ports):
        found.append(ports)
        return spec_of("unready").command(ports)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_backend, BackendSpec("fake", command, policy=EAGER))
        await until(lambda: found)
        nursery.cancel_scope.cancel()
    assert len(found) == 1
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", found[0].http))


@pytest.mark.slow
async def test_a_hang_up_is_forwarded_even_when_it_comes_before_the_child_is_ready(caplog):
    """Slow: starts a child twice."""
    caplog.set_level(logging.INFO)
    async with trio.open_nursery() as nursery:
        handle = await nursery.start(serve_backend, spec_of())
        handle.signal_reload()
        await until(lambda: "volume.go:3 reload" in caplog.text)
        os.kill(handle.pid, signal.SIGKILL)
        await until(lambda: not handle.is_ready)
        caplog.clear()
        handle.signal_reload()
        await until(lambda: "volume.go:3 reload" in caplog.text)
        assert [r.levelno for r in caplog.records if "reload" in r.message] == [logging.WARNING]
        handle.request_stop()


async def test_a_child_that_writes_a_lot_is_never_blocked_by_us(caplog):
    caplog.set_level(logging.INFO)
    async with trio.open_nursery() as nursery:
        with trio.fail_after(LIMIT_S):
            handle = await nursery.start(serve_backend, spec_of("chatty"))
        handle.request_stop()
    assert max(len(record.getMessage()) for record in caplog.records) < 9000


async def test_what_the_child_started_ends_with_it(caplog):
    caplog.set_level(logging.INFO)
    async with trio.open_nursery() as nursery:
        handle = await nursery.start(serve_backend, spec_of("parent"))
        await until(lambda: "grandchild " in caplog.text)
        grandchild = int(caplog.text.partition("grandchild ")[2].split()[0])
        assert is_alive(grandchild)
        handle.request_stop()
    await until(lambda: not is_alive(grandchild))


@pytest.mark.slow
async def test_the_channel_follows_a_restart():
    """Slow: starts a child twice."""
    async with trio.open_nursery() as nursery:
        handle = await nursery.start(serve_backend, spec_of())
        channels = BackendChannel(handle)
        first = channels.get()
        assert channels.get() is first
        os.kill(handle.pid, signal.SIGKILL)
        await until(lambda: handle.is_ready and handle.generation == 2)
        assert channels.get() is not first
        channels.close()
        handle.request_stop()


async def test_a_call_without_a_child_fails_at_once():
    async with trio.open_nursery() as nursery:
        handle = await nursery.start(serve_backend, spec_of())
        handle.request_stop()
    channels = BackendChannel(handle)
    call = partial(channels.get().unary_unary("/x/y"), b"", timeout=LIMIT_S)
    try:
        with pytest.raises(grpc.RpcError) as raised:
            await trio.to_thread.run_sync(call)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    finally:
        channels.close()


@pytest.mark.slow
async def test_a_port_that_was_taken_meanwhile_is_given_up(caplog):
    """Slow: starts a child three times."""
    with ExitStack() as holding:

        def take_the_port(pid):
            """As soon as the child is gone."""
            if pid is None and handle.generation == 1:
                holding.enter_context(socket.create_server(("127.0.0.1", taken)))

        async with trio.open_nursery() as nursery:
            handle = await nursery.start(serve_backend, replace(spec_of(), note_process=take_the_port))
            taken = handle.ports.http
            os.kill(handle.pid, signal.SIGKILL)
            await until(lambda: handle.is_ready and handle.generation == 2)
            assert handle.ports.http != taken
            handle.request_stop()
    assert "a port was taken by another program" in caplog.text


async def test_a_stop_ends_the_wait_for_the_next_start():
    policy = RestartPolicy(first_delay_s=60, max_delay_s=60)
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            handle = await nursery.start(serve_backend, spec_of(policy=policy))
            os.kill(handle.pid, signal.SIGKILL)
            await until(lambda: handle.state is BackendState.BACKOFF)
            handle.signal_reload()
            handle.request_stop()
    assert handle.state is BackendState.STOPPED
    assert handle.pid is None


@pytest.mark.slow
async def test_a_program_that_is_being_replaced_is_tried_again(tmp_path, caplog):
    """Slow: starts a child twice."""
    program = tmp_path / "program"
    hidden = tmp_path / "hidden"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {FAKE} "$@"\n')
    program.chmod(0o755)
    patient = RestartPolicy(first_delay_s=0.1, max_delay_s=0.1)
    spec = BackendSpec("fake", lambda ports: [str(program), str(ports.http), str(ports.grpc)], policy=patient)
    async with trio.open_nursery() as nursery:
        handle = await nursery.start(serve_backend, spec)
        program.rename(hidden)
        os.kill(handle.pid, signal.SIGKILL)
        await until(lambda: "cannot start the backend" in caplog.text)
        hidden.rename(program)
        await until(lambda: handle.is_ready)
        assert handle.generation == 2
        handle.request_stop()


async def test_what_closes_without_an_answer_or_answers_something_else_does_not_serve():
    async def answer(stream, *, said):
        await stream.receive_some()
        await stream.send_all(said)
        await stream.aclose()

    for said in (b"", b"HTTP/1.1 503 No\r\n\r\n", b"SSH-2.0-x\r\n", b"x" * 5000):
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(partial(trio.serve_tcp, partial(answer, said=said), 0, host="127.0.0.1"))
            port = listener.socket.getsockname()[1]
            assert not await is_serving(BackendPorts(http=port, grpc=port, public=port, metrics=port))
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("ready_s", "late_s"), [(0.0, 0.021), (0.3, 0.021), (0.8, 0.042), (2.0, 0.11), (60.0, 0.201)])
def test_a_child_that_is_ready_is_found_soon(ready_s, late_s):
    """And one that takes long is not asked all the time."""
    at_s = probes = 0
    while at_s < ready_s:
        at_s += probe_pause_s(at_s)
        probes += 1
    assert at_s - ready_s <= late_s
    assert probes <= 20 + 20 * ready_s
