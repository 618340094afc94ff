"""What handlers check before they act, and how the store's errors become upstream's answers."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc

from native_handlers.format.errors import FormatError
from native_handlers.grpc.context import RpcFailure
from native_handlers.storage.errors import DiskUnavailable, StorageError, VolumeClosed, VolumeNotSeen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from native_handlers.grpc.node import GrpcNode
    from native_handlers.storage.store import Store
    from native_handlers.storage.volume import Volume


def check_maintenance(node: GrpcNode) -> None:
    """Raises RpcFailure while the server is in maintenance mode. Source: weed/server/volume_server.go."""
    if node.state.state().maintenance:
        raise RpcFailure(f"volume server {node.facts.id} is in maintenance mode")


def store_of(node: GrpcNode) -> Store:
    """The store; a table that serves these routes natively without one is a mistake in how the server was put
    together.
    """
    assert node.store is not None, "no store is open in this process"
    return node.store


def volume_of(node: GrpcNode, volume_id: int, absent_text: str = "not found volume id %d") -> Volume:
    """The mounted volume, or RpcFailure with `absent_text`, for upstream words it differently from RPC to RPC."""
    volume = store_of(node).find_volume(volume_id)
    if volume is None:
        raise RpcFailure(absent_text % volume_id)
    return volume


@contextmanager
def errors_as_upstream(doing: str = "", *, absent: str | None = None) -> Iterator[None]:
    """Turns what the store raises into UNKNOWN with the bare text, as upstream's plain errors travel.

    A disk that is out of service, of which upstream has no word, is UNAVAILABLE; so is a volume that may be on one:
    nobody is to take it for gone. Whoever catches errors of the store without this has to tell these apart as well.

    Args:
        doing: what upstream puts before the text.
        absent: the whole text for a volume that was closed after it had been found; None treats it as any error.
    """
    try:
        yield
    except (DiskUnavailable, VolumeNotSeen) as error:
        raise unavailable(error) from error
    except (StorageError, FormatError, OSError) as error:
        if absent is not None and isinstance(error, VolumeClosed):
            raise RpcFailure(absent) from error
        text = _text_of(error) if isinstance(error, OSError) else str(error)
        raise RpcFailure(f"{doing}: {text}" if doing else text) from error


def unavailable(error: DiskUnavailable | VolumeNotSeen) -> RpcFailure:
    """What every RPC answers for a disk that is out of service: not UNKNOWN, for the volume is there."""
    return RpcFailure(str(error), grpc.StatusCode.UNAVAILABLE)


def _text_of(error: OSError) -> str:
    """What Go says of a failed call, but for the call's name: the file and why."""
    text = error.strerror or str(error)
    return f"{error.filename}: {text}" if error.filename is not None else text
