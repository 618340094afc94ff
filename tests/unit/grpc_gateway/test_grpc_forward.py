"""Forwarding: four shapes, and all parts of a call, in both directions."""

from __future__ import annotations

import dataclasses
import itertools
import threading

import grpc
import pytest
from support.grpc_gateway import Line, error_of
from support.waiting import LIMIT_S as T
from support.waiting import wait_until

from native_handlers.pb.methods import VOLUME_SERVER_METHODS
from supervisor.gateway.grpc_forward import ForwardedCall
from supervisor.routing.registry import AfterForward

UNARY, DOWN, UP, BOTH = "GetState", "VolumeTailSender", "ReceiveFile", "Query"
NOTED = "SetState"
"""After it was forwarded something else is to happen."""
BINARY = bytes(range(256))


@pytest.fixture
def forwarding(backend, open_gateway, monkeypatch):
    """A client of a gateway that forwards all. No RPC of the service streams both ways, so one is made to."""
    both = dataclasses.replace(VOLUME_SERVER_METHODS[BOTH], client_streaming=True)
    monkeypatch.setitem(VOLUME_SERVER_METHODS, BOTH, both)
    return open_gateway(backend=backend)


def test_unary(backend, forwarding):
    backend.on(UNARY)(lambda request, context: request[::-1])
    assert forwarding.call(UNARY)(BINARY, timeout=T) == BINARY[::-1]
    assert forwarding.counted == [("grpc.GetState", "backend", "OK")]


def test_server_streaming(backend, forwarding):
    backend.on(DOWN)(lambda request, context: (request + b"%d" % i for i in range(100)))
    assert list(forwarding.call(DOWN)(b"m", timeout=T)) == [b"m%d" % i for i in range(100)]


def test_client_streaming(backend, forwarding):
    backend.on(UP)(lambda requests, context: b"|".join(requests))
    parts = [b"%d" % i for i in range(100)]
    assert forwarding.call(UP)(iter(parts), timeout=T) == b"|".join(parts)


def test_both_ways_in_turn(backend, forwarding):
    """Each answer depends on the request before it, so the gateway must not hold back messages of either stream."""
    backend.on(BOTH)(lambda requests, context: (request.upper() for request in requests))
    answers: list[bytes] = []
    told = threading.Semaphore(1)

    def requests():
        for letter in (b"a", b"b", b"c"):
            assert told.acquire(timeout=T)
            yield letter

    for answer in forwarding.call(BOTH)(requests(), timeout=T):
        answers.append(answer)
        told.release()
    assert answers == [b"A", b"B", b"C"]


@pytest.mark.parametrize("empty_stream", [DOWN, BOTH])
def test_empty_streams(backend, forwarding, empty_stream):
    backend.on(empty_stream)(lambda request, context: iter(()))
    argument = b"" if empty_stream == DOWN else iter(())
    assert list(forwarding.call(empty_stream)(argument, timeout=T)) == []


def test_empty_messages_are_messages(backend, forwarding):
    backend.on(UNARY)(lambda request, context: b"")
    backend.on(DOWN)(lambda request, context: iter([b"", b"x", b""]))
    assert forwarding.call(UNARY)(b"", timeout=T) == b""
    assert list(forwarding.call(DOWN)(b"", timeout=T)) == [b"", b"x", b""]


def test_messages_beyond_grpcs_default_limit_of_4_mib(backend, forwarding):
    big = BINARY * (5 << 12)
    backend.on("WriteNeedleBlob")(lambda request, context: request)
    assert forwarding.call("WriteNeedleBlob")(big, timeout=T) == big


@pytest.mark.parametrize("name", [UNARY, DOWN])
def test_metadata_both_ways(backend, forwarding, name):
    @backend.on(name)
    def behavior(request, context):
        context.send_initial_metadata((("head", "1"), ("head-bin", BINARY)))
        context.set_trailing_metadata((("tail", "2"), ("tail-bin", BINARY), ("twice", "a"), ("twice", "b")))
        return request if name == UNARY else iter([request])

    sent = (("key", "value"), ("key-bin", BINARY), ("x-amz-request-id", "of-the-client"), ("grpc-mine", "no"))
    if name == UNARY:
        _, call = forwarding.call(name).with_call(b"", timeout=T, metadata=sent)
    else:
        call = forwarding.call(name)(b"", timeout=T, metadata=sent)
        assert list(call) == [b""]
    seen = backend.seen[0][1]
    assert seen["key"] == "value"
    assert seen["key-bin"] == BINARY
    assert seen["x-amz-request-id"] == "of-the-client"
    assert "grpc-mine" not in seen
    assert set(call.initial_metadata()) == {("head", "1"), ("head-bin", BINARY)}
    trailing = list(call.trailing_metadata())
    assert {("tail", "2"), ("tail-bin", BINARY)} <= set(trailing)
    assert [value for key, value in trailing if key == "twice"] == ["a", "b"]
    if name == UNARY:
        assert ("x-amz-request-id", "of-the-client") in trailing


def test_headers_of_a_stream_arrive_before_its_first_message(backend, forwarding):
    go_on = threading.Event()

    @backend.on(DOWN)
    def behavior(request, context):
        context.send_initial_metadata((("head", "early"),))
        assert go_on.wait(T)
        yield b"late"

    call = forwarding.call(DOWN)(b"", timeout=T)
    assert ("head", "early") in call.initial_metadata()
    go_on.set()
    assert list(call) == [b"late"]


def test_unary_calls_get_a_request_id(backend, forwarding):
    backend.on(UNARY)(lambda request, context: b"")
    _, call = forwarding.call(UNARY).with_call(b"", timeout=T)
    request_id = dict(call.trailing_metadata())["x-amz-request-id"]
    assert len(request_id) == 36
    assert backend.seen[0][1]["x-amz-request-id"] == request_id


def test_streams_get_no_request_id(backend, forwarding):
    backend.on(DOWN)(lambda request, context: iter(()))
    call = forwarding.call(DOWN)(b"", timeout=T)
    assert list(call) == []
    assert "x-amz-request-id" not in dict(call.trailing_metadata())
    assert "x-amz-request-id" not in backend.seen[0][1]


@pytest.mark.parametrize("name", [UNARY, DOWN, UP, BOTH])
def test_status_details_and_trailers_of_a_failure(backend, forwarding, name):
    def behavior(request, context):
        context.set_trailing_metadata((("grpc-status-details-bin", b"\x08\x05\x12\x02no"), ("why", "because")))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "ec volume 7 has no live entries: ü %41 \n")

    def stream_behavior(request, context):
        yield behavior(request, context)

    backend.on(name)(stream_behavior if name in (DOWN, BOTH) else behavior)
    argument = iter([b"x"]) if name in (UP, BOTH) else b"x"
    call = forwarding.call(name)
    error = error_of(lambda: list(call(argument, timeout=T)))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error.details() == "ec volume 7 has no live entries: ü %41 \n"
    trailing = dict(error.trailing_metadata())
    assert trailing["grpc-status-details-bin"] == b"\x08\x05\x12\x02no"
    assert trailing["why"] == "because"
    assert forwarding.counted[-1][1:] == ("backend", "FAILED_PRECONDITION")


def test_plain_errors_stay_unknown_with_the_bare_text(backend, forwarding):
    @backend.on(UNARY)
    def behavior(request, context):
        context.abort(grpc.StatusCode.UNKNOWN, "volume 3 not found")

    error = error_of(lambda: forwarding.call(UNARY)(b"", timeout=T))
    assert (error.code(), error.details()) == (grpc.StatusCode.UNKNOWN, "volume 3 not found")


def test_a_failure_after_some_messages(backend, forwarding):
    @backend.on(DOWN)
    def behavior(request, context):
        yield b"1"
        context.abort(grpc.StatusCode.UNKNOWN, "broke")

    call = forwarding.call(DOWN)(b"", timeout=T)
    assert next(call) == b"1"
    assert error_of(lambda: next(call)).details() == "broke"


def test_every_status_code(backend, forwarding):
    for code in grpc.StatusCode:
        if code is grpc.StatusCode.OK:
            continue
        backend.on(UNARY)(lambda request, context, code=code: context.abort(code, "text"))
        assert error_of(lambda: forwarding.call(UNARY)(b"", timeout=T)).code() is code


def test_the_deadline_goes_on(backend, forwarding):
    backend.on(UNARY)(lambda request, context: b"")
    forwarding.call(UNARY)(b"", timeout=T)
    forwarding.call(UNARY)(b"")
    (_, _, with_deadline), (_, _, without) = backend.seen
    assert 0 < with_deadline <= T * 1.02  # grpc rounds what is left up, to two or three digits
    assert without is None or without > 1e8


@pytest.mark.parametrize("name", [UNARY, DOWN, UP, BOTH])
def test_when_the_client_cancels_the_backend_hears_it(backend, forwarding, name):
    begun, cancelled = threading.Event(), threading.Event()

    def behavior(request, context):
        context.add_callback(cancelled.set)
        begun.set()
        assert cancelled.wait(T)
        return b""

    def stream_behavior(request, context):
        yield behavior(request, context)

    backend.on(name)(stream_behavior if name in (DOWN, BOTH) else behavior)
    endless = iter(threading.Event().wait, "never")
    argument = endless if name in (UP, BOTH) else b""
    multi = forwarding.call(name)
    call = multi(argument, timeout=T) if name in (DOWN, BOTH) else multi.future(argument, timeout=T)
    assert begun.wait(T)
    call.cancel()
    assert cancelled.wait(T)
    wait_until(lambda: forwarding.gateway.running_calls == 0, "the gateway's thread is free again")


def test_a_client_that_only_stops_reading_a_stream_is_noticed(backend, forwarding):
    """The gateway notices a cancellation also while it waits for the backend's next message."""
    cancelled = threading.Event()

    @backend.on(DOWN)
    def behavior(request, context):
        context.add_callback(cancelled.set)
        yield b"1"
        assert cancelled.wait(T)

    call = forwarding.call(DOWN)(b"", timeout=T)
    assert next(call) == b"1"
    call.cancel()
    assert cancelled.wait(T)


def test_the_backend_may_end_a_call_before_it_has_read_the_requests(backend, forwarding):
    backend.on(UP)(lambda requests, context: b"enough after " + next(requests))
    more = threading.Event()

    def requests():
        yield b"1"
        more.wait(T)

    assert forwarding.call(UP)(requests(), timeout=T) == b"enough after 1"
    more.set()
    wait_until(lambda: forwarding.gateway.running_calls == 0, "the gateway's thread is free again")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["cancelled", "out of time"])
def test_a_broken_off_upload_never_looks_complete(backend, forwarding, how):
    """The backend must see a cancellation, never the end of the stream: else half a file would be kept as whole.

    Slow because the race that it guards against is lost about one time in ten at best.
    """
    endings: list[str] = []

    @backend.on(UP)
    def behavior(requests, context):
        try:
            for _ in requests:
                pass
            # grpcio's server may end the stream alike when it was cancelled; asked once more, it says so.
            next(requests, None)
        except grpc.RpcError:
            endings.append("cancelled")
            raise
        endings.append("complete" if context.is_active() else "cancelled")
        return b""

    limit_s = 0.02
    for _ in range(100):
        sent, go_on = threading.Event(), threading.Event()

        def requests(sent=sent, go_on=go_on):
            yield b"half of it"
            sent.set()
            go_on.wait(T)

        call = forwarding.call(UP).future(requests(), timeout=T if how == "cancelled" else limit_s)
        if how == "cancelled":
            assert sent.wait(T)
            call.cancel()
        else:
            assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            limit_s *= 1 if backend.seen else 1.1  # a slow machine needs longer to reach the backend at all
        go_on.set()
    wait_until(lambda: len(endings) == len(backend.seen) > 0, "the backend saw each call end")
    assert set(endings) == {"cancelled"}


@pytest.mark.slow
def test_a_slow_reader_slows_the_backend(backend, forwarding):
    """Nothing queues without bound between backend and client: the backend gets stuck long before the end.

    Slow because it waits until the backend is still.
    """
    # No event says that the windows of both connections are full. A pause that is too short ends the wait early, which
    # can only let the test pass.
    message, count = b"x" * (256 << 10), 400
    produced = itertools.count()
    last = [0]

    @backend.on(DOWN)
    def behavior(request, context):
        for _ in range(count):
            last[0] = next(produced)
            yield message

    call = forwarding.call(DOWN)(b"", timeout=60)
    assert next(call) == message
    before = -1
    while before != last[0]:
        before = last[0]
        threading.Event().wait(0.3)
    assert last[0] < count // 2
    assert sum(1 for _ in call) == count - 1


@pytest.mark.slow
def test_a_slow_backend_slows_the_client(backend, forwarding):
    """Slow because it waits until the client is still."""
    # See `test_a_slow_reader_slows_the_backend` for the pauses.
    message, count = b"x" * (256 << 10), 400
    sent = [0]
    go_on = threading.Event()

    @backend.on(UP)
    def behavior(requests, context):
        next(requests)
        assert go_on.wait(60)
        return b"%d" % (1 + sum(1 for _ in requests))

    def requests():
        for _ in range(count):
            sent[0] += 1
            yield message

    call = forwarding.call(UP).future(requests(), timeout=60)
    before = -1
    while before != sent[0]:
        before = sent[0]
        threading.Event().wait(0.3)
    assert sent[0] < count // 2
    go_on.set()
    assert call.result() == b"%d" % count


@pytest.mark.parametrize("name", [UNARY, DOWN, UP])
def test_no_backend_is_unavailable_and_says_so(backend, forwarding, name):
    backend.server.stop(None).wait()
    argument = iter([b""]) if name == UP else b""
    call = forwarding.call(name)
    error = error_of(lambda: list(call(argument, timeout=T)))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert error.details().startswith("the backend volume server is unavailable: ")


@pytest.mark.parametrize("name", [UNARY, DOWN, UP])
def test_a_channel_that_was_closed(backend, open_gateway, name):
    client = open_gateway(backend=backend)
    client.backend_channel.close()
    argument = iter([b""]) if name == UP else b""
    error = error_of(lambda: list(client.call(name)(argument, timeout=T)))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert error.details().startswith("the backend volume server is unavailable: ")
    wait_until(lambda: client.gateway.running_calls == 0, "the gateway's thread is free again")


@pytest.mark.parametrize("name", [UNARY, DOWN])
def test_a_backend_that_dies_during_a_call(backend, open_gateway, name):
    begun, go_on = threading.Event(), threading.Event()

    @backend.on(UNARY)
    def unary(request, context):
        begun.set()
        go_on.wait(T)
        return b""

    @backend.on(DOWN)
    def stream(request, context):
        yield b"1"
        unary(request, context)

    line = Line(backend.port)
    client = open_gateway(backend=line)
    multi = client.call(name)
    call = multi(b"", timeout=T) if name == DOWN else multi.future(b"", timeout=T)
    if name == DOWN:
        assert next(call) == b"1"
    assert begun.wait(T)
    line.cut()
    error = error_of(lambda: next(call) if name == DOWN else call.result())
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert error.details().startswith("the backend volume server is unavailable: ")
    go_on.set()


@pytest.mark.parametrize("trailing", [(), (("x-amz-request-id", "1"),)])
def test_an_unavailable_of_the_backends_own_keeps_its_text(backend, forwarding, trailing):
    text = 'read volume file status failed, rpc error: desc = "dial tcp: connect: connection refused"'

    @backend.on(UNARY)
    def behavior(request, context):
        context.set_trailing_metadata(trailing)
        context.abort(grpc.StatusCode.UNAVAILABLE, text)

    assert error_of(lambda: forwarding.call(UNARY)(b"", timeout=T)).details() == text


def test_after_forward(backend, open_gateway):
    heard = []
    client = open_gateway(backend=backend, hooks={AfterForward.NOTE_STATE: heard.append})
    for name in (NOTED, UNARY):
        backend.on(name)(
            lambda request, context: b"answer" if request else context.abort(grpc.StatusCode.UNKNOWN, "no")
        )
    error_of(lambda: client.call(NOTED)(b"", timeout=T))
    client.call(UNARY)(b"of another route", timeout=T)
    assert heard == []
    client.call(NOTED)(b"question", timeout=T)
    assert heard == [ForwardedCall(b"question", b"answer")]


def test_after_forward_that_fails_is_an_internal_error(backend, open_gateway, caplog):
    def hook(_call):
        raise OSError("cannot leave")

    client = open_gateway(backend=backend, hooks={AfterForward.NOTE_STATE: hook})
    backend.on(NOTED)(lambda request, context: b"")
    error = error_of(lambda: client.call(NOTED)(b"", timeout=T))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "cannot leave" in error.details()
    assert "cannot leave" in caplog.text
