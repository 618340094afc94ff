"""The receiving side of CopyFile: one file of another volume server's volume, written as it arrives.

Source: weed/server/volume_grpc_copy.go (doCopyFileWithThrottler, writeToFile).
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import grpc
from google.protobuf.message import DecodeError

from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.copy_messages import parse_copy_piece
from native_handlers.grpc.file_names import os_error_text
from native_handlers.grpc.heard import heard
from native_handlers.grpc.status_text import go_error_text
from native_handlers.records import dataclass
from native_handlers.storage.model.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from native_handlers.grpc.context import RpcContext
    from native_handlers.grpc.copy_messages import CopyPiece
    from native_handlers.grpc.heard import AnswerStream
    from native_handlers.grpc.throttle import WriteThrottler
    from native_handlers.pb import volume_server_pb2 as pb
    from native_handlers.pb.methods import ServiceClient
    from native_handlers.storage.transfer.receive import ArrivingFile


class CallEnd:
    """The end of the caller's call. It cancels calls to other servers and ends pauses. Thread-safe."""

    def __init__(self, context: RpcContext) -> None:
        self._ended = threading.Event()
        self._lock = threading.Lock()  # protects _cancel
        self._cancel: Callable[[], object] | None = None
        if not context.add_callback(self._end):
            self._end()

    def _end(self) -> None:
        self._ended.set()
        with self._lock:
            cancel = self._cancel
        if cancel is not None:
            cancel()

    def guard(self, cancel: Callable[[], object]) -> None:
        """Calls `cancel` when the call ends, at once if it has ended. Replaces the `cancel` of an earlier `guard`."""
        with self._lock:
            self._cancel = cancel
        if self._ended.is_set():
            cancel()

    def pause(self, seconds: float) -> None:
        """Waits for `seconds`, or until the call ends.

        Raises:
            RpcFailure: the call has ended.
        """
        if self._ended.wait(seconds):
            self.check()

    def check(self) -> None:
        """Raises RpcFailure if the call has ended."""
        if self._ended.is_set():
            raise ended()


def ended() -> RpcFailure:
    """The failure of a call whose client is gone."""
    return RpcFailure("the client is gone", grpc.StatusCode.CANCELLED)


@dataclass(frozen=True, slots=True)
class CopySource:
    """The source of copied files, and the pace of copying. All work ends with `end`."""

    client: ServiceClient
    end: CallEnd
    throttle: WriteThrottler


def receive_copy(source: CopySource, request: pb.CopyFileRequest, make: Callable[[], ArrivingFile]) -> Iterator[int]:
    """Copies the file of `request` into the one that `make` makes, once the source has shown that it has the file.

    Yields the number of bytes written, after each message. At the end the file is committed, with the modification time
    of the source's file. A source without the file sends no message; then no file is made.

    Raises:
        RpcFailure: no part of the file is kept. The code is UNKNOWN, except for the end of the caller's own call.
    """
    source.end.check()
    stream = source.client.undecoded.CopyFile(request)
    source.end.guard(stream.cancel)
    file: ArrivingFile | None = None
    modified_at_ns = 0
    try:
        for piece in _pieces(source, stream, request):
            modified_at_ns = modified_at_ns or piece.modified_at_ns
            file = file or _made(request, make)
            yield from _write(source, request, file, piece)
        if file is not None:
            _commit(request, file, modified_at_ns)
    finally:
        stream.cancel()
        if file is not None:
            file.discard()


def _pieces(source: CopySource, stream: AnswerStream[bytes], request: pb.CopyFileRequest) -> Iterator[CopyPiece]:
    try:
        yield from map(parse_copy_piece, heard(stream))
    except grpc.RpcError as error:
        source.end.check()
        raise _failed(request, f"receiving {_name(request)}: {go_error_text(error)}") from error
    except DecodeError as error:
        raise _failed(request, f"receiving {_name(request)}: {error}") from error


def _write(source: CopySource, request: pb.CopyFileRequest, file: ArrivingFile, piece: CopyPiece) -> Iterator[int]:
    count = len(piece.content)
    if file.size_bytes + count > request.stop_offset:
        # A source that does not stop would fill the disk.
        raise _failed(request, f"the source sent more than the {request.stop_offset} bytes that were asked for")
    try:
        file.write(piece.content)
    except OSError as error:
        raise _failed(request, os_error_text("write file", file.target, error)) from error
    yield file.size_bytes
    source.throttle.passed(count)


def _made(request: pb.CopyFileRequest, make: Callable[[], ArrivingFile]) -> ArrivingFile:
    try:
        return make()
    except OSError as error:
        raise _failed(request, os_error_text("open file", error.filename or request.ext, error)) from error
    except StorageError as error:
        raise _failed(request, str(error)) from error


def _commit(request: pb.CopyFileRequest, file: ArrivingFile, modified_at_ns: int) -> None:
    try:
        file.commit(modified_at_ns)
    except OSError as error:
        raise _failed(request, os_error_text("commit copied file", file.target, error)) from error
    except StorageError as error:
        raise _failed(request, str(error)) from error


def _name(request: pb.CopyFileRequest) -> str:
    return f"{request.volume_id}{request.ext}"


def _failed(request: pb.CopyFileRequest, why: str) -> RpcFailure:
    return RpcFailure(f"failed to copy {_name(request)} file: {why}")
