"""RPCs of the volume server by name: each call takes the fields of the request, and has a time limit."""

from contextlib import contextmanager

import grpc
import pytest
from support.waiting import LIMIT_S

from native_handlers.pb import volume_server_pb2 as pb


def call(server, name, **fields):
    """Calls the RPC and returns its answer."""
    return getattr(server.rpc, name)(getattr(pb, f"{name}Request")(**fields), timeout=LIMIT_S)


def code_and_text(run):
    """The code and the text with which the RPC that `run` makes fails."""
    with pytest.raises(grpc.RpcError) as raised:
        run()
    return raised.value.code(), raised.value.details()


def refusal(server, name, **fields):
    """The text with which an RPC fails. Its code is UNKNOWN."""
    code, text = code_and_text(lambda: call(server, name, **fields))
    assert code is grpc.StatusCode.UNKNOWN
    return text


@contextmanager
def maintenance(server):
    """Inside, the server is in maintenance. Gives the text with which it refuses changes."""
    state = call(server, "GetState").state
    on = call(server, "SetState", state=pb.VolumeServerState(maintenance=True, version=state.version)).state
    try:
        yield f"volume server {server.url} is in maintenance mode"
    finally:
        call(server, "SetState", state=pb.VolumeServerState(maintenance=False, version=on.version))
