"""Texts of answers: gRPC statuses in Go's form, for upstream puts one server's error into another's message, and texts
of requests that answers and log lines repeat.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import grpc

MAX_SHOWN_CHARACTERS = 300
"""Longer than any address, name of a file and file id: a host name has up to 253 characters; two ports come after
it."""
_GO_NAMES = {"CANCELLED": "Canceled", "OK": "OK"}


def go_code_name(code: grpc.StatusCode) -> str:
    """`code` in grpc-go's spelling: ``DeadlineExceeded``."""
    return _GO_NAMES.get(code.name) or "".join(word.capitalize() for word in code.name.split("_"))


def go_error_text(error: grpc.RpcError) -> str:
    """The text of a failed call's status in the form of Go's ``%v``."""
    return f"rpc error: code = {go_code_name(error.code())} desc = {error.details()}"


def shortened(text: str, most: int = MAX_SHOWN_CHARACTERS) -> str:
    """`text` of a request as it is repeated: its beginning, and three dots, where it is longer than `most`."""
    return text if len(text) <= most else f"{text[:most]}..."
