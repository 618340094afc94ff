"""Silent sources: a real call without answer is ended, and a call whose source pauses for another reason is not."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from support.waiting import LIMIT_S as T

from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.heard import heard
from native_handlers.pb import volume_server_pb2 as pb

LIMIT_S = 1.0
PASSES_S = 0.1
"""A limit before which nothing comes, however slow the machine."""


class Source(grpc.GenericRpcHandler):
    """Sends the items of `script`."""

    def __init__(self, script) -> None:
        self.ended = threading.Event()
        self._script = script
        self.server = grpc.server(ThreadPoolExecutor(2), handlers=[self], options=[("grpc.so_reuseport", 0)])
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def service(self, _details):
        def run(_request, context):
            context.add_callback(self.ended.set)
            yield from self._script(self.ended)

        return grpc.unary_stream_rpc_method_handler(run)


@pytest.fixture
def call():
    """Calls a source with a script. Returns the call and the source."""
    closing = []

    def start(script):
        source = Source(script)
        channel = grpc.insecure_channel(
            f"127.0.0.1:{source.port}", [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        )
        closing.extend((channel.close, lambda: source.server.stop(None).wait()))
        return channel.unary_stream("/a/b")(b"", timeout=T), source

    yield start
    for close in closing:
        close()


@pytest.mark.parametrize(
    ("first", "limit_s"), [([], PASSES_S), pytest.param([b"one", b"two"], LIMIT_S, marks=pytest.mark.slow)]
)
def test_silence_ends_the_call(call, first, limit_s):
    """Slow with messages: they must come before the limit passes on a busy machine too."""
    sent = threading.Event()

    def script(ended):
        yield from first
        sent.set()
        ended.wait(T)

    stream, source = call(script)
    assert sent.wait(T)
    messages = heard(stream, limit_s)
    assert [next(messages) for _ in first] == first
    with pytest.raises(RpcFailure, match=rf"^the source sent nothing for {limit_s:g} s$") as caught:
        next(messages)
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert source.ended.wait(T)


@pytest.mark.slow
def test_a_reader_that_takes_its_time_is_not_the_sources_silence(call):
    """Slow: the reader takes longer than the limit, which the messages must not reach."""
    stream, source = call(lambda _ended: iter([b"one", b"two"]))
    assert source.ended.wait(T)
    messages = heard(stream, LIMIT_S)
    assert next(messages) == b"one"
    # The thread that watches waits by the clock of the system. The pause has a lower bound alone, so a slow machine
    # changes nothing.
    threading.Event().wait(1.5 * LIMIT_S)
    assert list(messages) == [b"two"]


def test_the_sources_own_failure_goes_through(call):
    def script(_ended):
        yield b"one"
        raise ValueError("broken")

    stream, _ = call(script)
    messages = heard(stream, T)
    assert next(messages) == b"one"
    with pytest.raises(grpc.RpcError) as caught:
        next(messages)
    assert caught.value.code() is grpc.StatusCode.UNKNOWN


@pytest.mark.parametrize("name", ["VolumeCopy", "VolumeTailReceiver"])
def test_a_call_that_fetches_from_a_silent_server_ends(tmp_path, monkeypatch, name):
    from support.grpc_servers import serving  # noqa: PLC0415  it needs the folder's path

    monkeypatch.setattr("native_handlers.grpc.volume_copy.SILENCE_LIMIT_S", PASSES_S)
    monkeypatch.setattr("native_handlers.grpc.heard.heard.__defaults__", (PASSES_S,))

    class Silent(grpc.GenericRpcHandler):
        def service(self, _details):
            return grpc.stream_stream_rpc_method_handler(self._run)

        def _run(self, _requests, context):
            gone = threading.Event()
            context.add_callback(gone.set)
            gone.wait(T)
            yield b""

    silent = grpc.server(ThreadPoolExecutor(4), handlers=[Silent()], options=[("grpc.so_reuseport", 0)])
    port = silent.add_insecure_port("127.0.0.1:0")
    silent.start()
    try:
        with serving(tmp_path / "target") as target:
            address = f"127.0.0.1:1.{port}"
            if name == "VolumeCopy":
                request = pb.VolumeCopyRequest(volume_id=77, source_data_node=address)
                invoke = lambda: list(target.rpc.VolumeCopy(request, timeout=T))  # noqa: E731
            else:
                target.rpc.AllocateVolume(
                    pb.AllocateVolumeRequest(volume_id=77, replication="000", version=3), timeout=T
                )
                request = pb.VolumeTailReceiverRequest(volume_id=77, source_volume_server=address)
                invoke = lambda: target.rpc.VolumeTailReceiver(request, timeout=T)  # noqa: E731
            with pytest.raises(grpc.RpcError) as caught:
                invoke()
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert "nothing for" in caught.value.details() or "read volume file status failed" in caught.value.details()
    finally:
        silent.stop(None).wait()
