"""Shards of other volume servers, and the master's list of the servers that hold them, over channels that are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

from native_handlers.grpc.self_calls import MARK_KEY
from native_handlers.grpc.status_text import go_error_text
from native_handlers.pb import master_pb2
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.pb.methods import master, volume_server
from native_handlers.storage.erasure_coding.remote import ServerSilent, ServerUnreachable, ShardUnreachable
from supervisor.authority.outside import outside
from supervisor.cluster.channels import ChannelCache
from supervisor.cluster.identity import is_same_server
from supervisor.wire.server_address import BadServerAddress, ServerAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from native_handlers.grpc.self_calls import SelfMark
    from native_handlers.storage.erasure_coding.remote import ShardRange
    from supervisor.cluster.dial import Dial
    from supervisor.cluster.master_view import MasterView

CALL_LIMIT_S = 30.0
"""A server that hangs must not keep a reader waiting: the range can be computed from other shards."""
MASTER_LIMIT_S = 5.0
MAX_CHANNELS = 64
"""The most channels to servers that hold shards. Usually a volume has shards on 14 servers at most."""


class ClusterShards:
    """Implements `RemoteShards`. `dial` may block.

    Args:
        own: this server's address.
        note: gets the address of each server that is called. The master has named them all as holders of shards.
    """

    def __init__(
        self,
        view: MasterView,
        dial: Dial,
        own: ServerAddress,
        mark: SelfMark,
        note: Callable[[str], None] = lambda _address: None,
    ) -> None:
        self._view, self._own, self._mark, self._note = view, own, mark, note
        self._channels = ChannelCache(dial, MAX_CHANNELS)
        self._masters = ChannelCache(dial)

    def holders(self, volume_id: int) -> Mapping[int, list[str]]:
        """See `RemoteShards.holders`."""
        leader = self._view.leader
        request = master_pb2.LookupEcVolumeRequest(volume_id=volume_id)
        try:
            with self._masters.calling(leader) as channel:
                response = master(channel).LookupEcVolume(request, timeout=MASTER_LIMIT_S)
        except (OSError, ValueError) as error:
            raise ServerUnreachable(f"lookup ec volume {volume_id}: no channel to {leader.http}: {error}") from error
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                self._view.note_unreachable(leader)
            raise _failure(error)(f"lookup ec volume {volume_id}: {go_error_text(error)}") from error
        return {
            row.shard_id: [
                f"{location.url}.{location.grpc_port}" if location.grpc_port else location.url
                for location in row.locations
            ]
            for row in response.shard_id_locations
        }

    def is_self(self, address: str) -> bool:
        """See `RemoteShards.is_self`."""
        try:
            return is_same_server(ServerAddress.parse(address), self._own)
        except BadServerAddress:
            return False

    def begin_read(self, address: str, wanted: ShardRange) -> _Pending:
        """See `RemoteShards.begin_read`."""
        request = pb.VolumeEcShardReadRequest(
            volume_id=wanted.volume_id,
            shard_id=wanted.shard_id,
            offset=wanted.offset_bytes,
            size=wanted.length_bytes,
            file_key=wanted.needle_id,
            encode_ts_ns=wanted.encode_ts_ns,
        )
        target, channel = self._channel(address)

        def failed(error: grpc.RpcError) -> None:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                self._channels.forget(target, channel)

        try:
            stream = self._client(channel).VolumeEcShardRead(request, timeout=CALL_LIMIT_S)
        except ValueError as error:  # grpcio raises this for a closed channel
            raise ShardUnreachable(f"no channel to {address}: {error}") from error
        return _Pending(stream, wanted, address, failed)

    def delete(self, address: str, volume_id: int, collection: str, needle_id: int, version: int) -> None:
        """See `RemoteShards.delete`."""
        request = pb.VolumeEcBlobDeleteRequest(
            volume_id=volume_id, collection=collection, file_key=needle_id, version=version
        )
        target, channel = self._channel(address)
        name = f"failed to delete from ec shard {volume_id} on {address}"
        try:
            with outside():
                self._client(channel).VolumeEcBlobDelete(request, timeout=CALL_LIMIT_S)
        except ValueError as error:  # as in `begin_read`
            raise ShardUnreachable(f"{name}: {error}") from error
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                self._channels.forget(target, channel)
            raise _failure(error)(f"{name}: {go_error_text(error)}") from error

    def close(self) -> None:
        """Closes the channels. Running calls fail."""
        self._channels.close()
        self._masters.close()

    def _channel(self, address: str) -> tuple[ServerAddress, grpc.Channel]:
        try:
            target = ServerAddress.parse(address)
            channel = self._channels.to(target)
        except (BadServerAddress, OSError) as error:
            raise ServerUnreachable(f"no channel to volume server {address}: {error}") from error
        self._note(address)
        return target, channel

    def _client(self, channel: grpc.Channel) -> Any:  # noqa: ANN401  see open_call
        return volume_server(channel, ((MARK_KEY, self._mark.text),))


def _failure(error: grpc.RpcError) -> type[ShardUnreachable]:
    """The class of a failed call: whether the server answered, or how long it did not."""
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return ServerSilent
    return ServerUnreachable if error.code() is grpc.StatusCode.UNAVAILABLE else ShardUnreachable


class _Pending:
    """A range that is being received."""

    def __init__(
        self,
        stream: Any,  # noqa: ANN401  see open_call
        wanted: ShardRange,
        address: str,
        failed: Callable[[grpc.RpcError], None],  # noqa: ANN401
    ) -> None:
        self._stream, self._wanted, self._address, self._failed = stream, wanted, address, failed

    def result(self) -> bytes | None:
        """See `PendingRange.result`."""
        with outside():
            return self._received()

    def _received(self) -> bytes | None:
        wanted, parts, length = self._wanted, [], 0
        name = f"ec shard {wanted.volume_id}.{wanted.shard_id} from {self._address}"
        try:
            for message in self._stream:
                if wanted.encode_ts_ns and message.encode_ts_ns != wanted.encode_ts_ns:
                    raise ShardUnreachable(
                        f"{name} belongs to a different encode run"
                        f" (want {wanted.encode_ts_ns}, got {message.encode_ts_ns})"
                    )
                if message.is_deleted:
                    return None
                length += len(message.data)
                if length > wanted.length_bytes:
                    break
                parts.append(message.data)
        except grpc.RpcError as error:
            self._failed(error)
            raise _failure(error)(f"receiving {name}: {go_error_text(error)}") from error
        finally:
            self._stream.cancel()
        if length != wanted.length_bytes:
            raise ShardUnreachable(f"short read {name}: got {length} want {wanted.length_bytes}")
        return b"".join(parts)

    def cancel(self) -> None:
        """See `PendingRange.cancel`."""
        self._stream.cancel()
