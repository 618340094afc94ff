"""gRPC statuses as text in Go's form: upstream puts one server's error into another's message."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import grpc

_GO_NAMES = {"CANCELLED": "Canceled", "OK": "OK"}


def go_code_name(code: grpc.StatusCode) -> str:
    """`code` in grpc-go's spelling: ``DeadlineExceeded``."""
    return _GO_NAMES.get(code.name) or "".join(word.capitalize() for word in code.name.split("_"))


def go_error_text(error: grpc.RpcError) -> str:
    """The text of a failed call's status in the form of Go's ``%v``."""
    return f"rpc error: code = {go_code_name(error.code())} desc = {error.details()}"
