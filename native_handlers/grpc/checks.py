"""Checks that handlers make before they act, and the translation of the store's errors into upstream's answers."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc

from native_handlers.format.errors import FormatError
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.self_calls import self_text
from native_handlers.storage.model.errors import DiskUnavailable, StorageError, VolumeClosed, VolumeNotSeen
from native_handlers.storage.volume.claim import check_named

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from native_handlers.grpc.node import GrpcNode
    from native_handlers.storage.store import Store
    from native_handlers.storage.volume.volume import Volume


_IDS_A_STEP = 4096


def once(ids: Sequence[int], *, below: int | None = None) -> Iterator[int]:
    """Yields each id of a request once, in order, and only those below `below`. A request has room for millions of ids,
    and other threads are not kept waiting while they are read.
    """
    seen: set[int] = set()
    for start in range(0, len(ids), _IDS_A_STEP):
        for one in dict.fromkeys(ids[start : start + _IDS_A_STEP]):
            if one not in seen and (below is None or one < below):
                seen.add(one)
                yield one


def check_maintenance(node: GrpcNode) -> None:
    """Raises RpcFailure while the server is in maintenance mode. Source: weed/server/volume_server.go."""
    if node.state.state().maintenance:
        raise RpcFailure(f"volume server {node.facts.id} is in maintenance mode")


def check_other(node: GrpcNode, error: grpc.RpcError, doing: str) -> None:
    """Raises RpcFailure where `error` says that the called source is this server itself.

    Args:
        doing: the operation on the source, for the text: ``copy a volume``.
    """
    if node.volume_servers.is_self(error):
        raise RpcFailure(self_text(f"{node.facts.ip}:{node.facts.port}", doing)) from error


def store_of(node: GrpcNode) -> Store:
    """The store. Only a server that was assembled wrongly serves these routes natively without one."""
    assert node.store is not None, "no store is open in this process"
    return node.store


def volume_of(node: GrpcNode, volume_id: int, absent_text: str = "not found volume id %d") -> Volume:
    """The mounted volume. Raises RpcFailure with `absent_text` without one: upstream's text differs from RPC to RPC."""
    volume = store_of(node).find_volume(volume_id)
    if volume is None:
        raise RpcFailure(absent_text % volume_id)
    return volume


@contextmanager
def errors_as_upstream(doing: str = "", *, absent: str | None = None) -> Iterator[None]:
    """Turns errors of the store into UNKNOWN with the bare text, the form of upstream's plain errors.

    A disk that is out of service, for which upstream has no status, is UNAVAILABLE. So is a volume that may be on such
    a disk: no client may take the volume for gone. A handler that catches the store's errors itself must make the same
    distinction.

    Args:
        doing: the prefix that upstream puts before the text.
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


@contextmanager
def claimed(volume: Volume, reason: str, *, holds_writes: bool) -> Iterator[None]:
    """Has the claim on the volume's files inside the block; no commit of a vacuum is under way there.

    Raises:
        RpcFailure: another operation has the claim, or the volume's files cannot be opened by their paths.
    """
    with errors_as_upstream():
        volume.check_in_service()
        volume.claim.take(reason, holds_writes=holds_writes)
    try:
        with errors_as_upstream():
            check_named(volume.handle)
        yield
    finally:
        volume.claim.give_up()


def unavailable(error: DiskUnavailable | VolumeNotSeen) -> RpcFailure:
    """The answer of every RPC for a disk that is out of service: not UNKNOWN, because the volume is there."""
    return RpcFailure(str(error), grpc.StatusCode.UNAVAILABLE)


def _text_of(error: OSError) -> str:
    """The text of Go for a failed call, without the call's name: the file and the reason."""
    text = error.strerror or str(error)
    return f"{error.filename}: {text}" if error.filename is not None else text
