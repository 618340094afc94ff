"""RPCs of the volume server by name: each call takes the fields of the request, and has a time limit."""

import grpc
import pytest
from support.waiting import LIMIT_S

from native_handlers.pb import volume_server_pb2 as pb


def call(server, name, **fields):
    """Calls the RPC and returns its answer."""
    return getattr(server.rpc, name)(getattr(pb, f"{name}Request")(**fields), timeout=LIMIT_S)


def refusal(server, name, **fields):
    """The text with which an RPC fails. Its code is UNKNOWN."""
    with pytest.raises(grpc.RpcError) as raised:
        call(server, name, **fields)
    assert raised.value.code() is grpc.StatusCode.UNKNOWN
    return raised.value.details()
