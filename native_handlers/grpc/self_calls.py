"""Recognises calls of a server to itself, however the address is spelled.

Each process makes a random mark at its start. The mark goes with every call that the process makes to another volume
server. A call that arrives with the process's own mark was sent by the process itself: through another host name or
address, another port, NAT, or a proxy that passes metadata on. Such a call is refused before its messages are read.
Go's servers do not know the mark, and ignore it.
"""

from __future__ import annotations

import secrets
from dataclasses import field
from typing import TYPE_CHECKING, Any

import grpc

from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable

MARK_KEY = "x-weed-volume-py-node"
"""The metadata key of the caller's mark, in requests and in the trailers of a refusal."""
REFUSAL_CODE = grpc.StatusCode.FAILED_PRECONDITION


@dataclass(frozen=True, slots=True)
class SelfMark:
    """The mark of this process. Other servers see the mark in each call; with it they can only have their own calls
    refused.
    """

    text: str = field(default_factory=lambda: secrets.token_hex(16))

    def is_in(self, metadata: Iterable[Any] | None) -> bool:
        """Whether `metadata`, pairs of key and value as grpcio gives them, has this mark."""
        return any(key == MARK_KEY and value == self.text for key, value in metadata or ())

    def is_refusal(self, error: grpc.RpcError) -> bool:
        """Whether this process refused the call because it made the call itself."""
        return error.code() is REFUSAL_CODE and self.is_in(error.trailing_metadata())


def self_text(own_address: str, doing: str) -> str:
    """The error text for a caller that names the server at `own_address` as the server's own source."""
    return f"volume server {own_address} cannot {doing} from itself"
