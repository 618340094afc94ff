"""RPCs of the volume server by name, as most tests make them: with the fields of the request, and a limit."""

import grpc
import pytest

from native_handlers.pb import volume_server_pb2 as pb

LIMIT_S = 20.0


def call(server, name, **fields):
    """The answer of an RPC."""
    return getattr(server.rpc, name)(getattr(pb, f"{name}Request")(**fields), timeout=LIMIT_S)


def refusal(server, name, **fields):
    """The text that an RPC fails with; its code is UNKNOWN."""
    with pytest.raises(grpc.RpcError) as raised:
        call(server, name, **fields)
    assert raised.value.code() is grpc.StatusCode.UNKNOWN
    return raised.value.details()
