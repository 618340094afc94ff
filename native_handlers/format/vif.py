"""Volume information: the text of a .vif file, protobuf's JSON form.

Field names are camelCase, 64-bit integers are strings, unset fields are written too. Text written by old servers
names two fields otherwise (BytesOffset, DestroyTime) and is read as well. Source: weed/storage/volume_info.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from google.protobuf import json_format

from native_handlers.format.errors import BadVolumeInfo
from native_handlers.pb import volume_server_pb2


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """Where in a remote storage tier a volume's .dat lives."""

    backend_type: str = ""
    backend_id: str = ""
    key: str = ""
    offset: int = 0
    file_size: int = 0
    modified_time: int = 0
    extension: str = ""

    @property
    def backend_name(self) -> str:
        """``s3.default``, the name that configuration and heartbeats use."""
        return f"{self.backend_type}.{self.backend_id}"


@dataclass(frozen=True, slots=True)
class EcShardConfig:
    """The erasure coding of the volume that shares this .vif."""

    data_shards: int = 0
    parity_shards: int = 0
    encode_ts_ns: int = 0


@dataclass(frozen=True, slots=True)
class VolumeInfo:
    """What a .vif says. 0 and "" mean: not said. `bytes_offset` is the width of index offsets."""

    files: tuple[RemoteFile, ...] = ()
    version: int = 0
    replication: str = ""
    bytes_offset: int = 0
    dat_file_size: int = 0
    expire_at_s: int = 0
    read_only: bool = False
    ec_shard_config: EcShardConfig | None = None
    read_only_can_delete: bool = False


def parse_volume_info(text: bytes | str) -> VolumeInfo:
    """The information in the text of a .vif.

    Raises:
        BadVolumeInfo: it is in neither form. An empty file is not text: treat it as absent.
    """
    if text.strip()[:1] not in (b"{", "{"):
        raise BadVolumeInfo("the text of a .vif is a JSON object; oldFormat: so was the old one")
    message = volume_server_pb2.VolumeInfo()
    try:
        json_format.Parse(text, message)
    except (json_format.ParseError, UnicodeDecodeError) as error:
        return _parse_old(text, error)
    ec = message.ec_shard_config
    has_ec = message.HasField("ec_shard_config")
    return VolumeInfo(
        files=_files_of(message),
        version=message.version,
        replication=message.replication,
        bytes_offset=message.bytes_offset,
        dat_file_size=message.dat_file_size,
        expire_at_s=message.expire_at_sec,
        read_only=message.read_only,
        ec_shard_config=EcShardConfig(ec.data_shards, ec.parity_shards, ec.encode_ts_ns) if has_ec else None,
        read_only_can_delete=message.read_only_can_delete,
    )


def _parse_old(text: bytes | str, first_error: Exception) -> VolumeInfo:
    message = volume_server_pb2.OldVersionVolumeInfo()
    try:
        json_format.Parse(text, message)
    except (json_format.ParseError, UnicodeDecodeError) as error:
        raise BadVolumeInfo(f"unmarshal error: {first_error} oldFormat: {error}") from error
    return VolumeInfo(
        files=_files_of(message),
        version=message.version,
        replication=message.replication,
        bytes_offset=message.BytesOffset,
        dat_file_size=message.dat_file_size,
        expire_at_s=message.DestroyTime,
        read_only=message.read_only,
    )


def _files_of(
    message: volume_server_pb2.VolumeInfo | volume_server_pb2.OldVersionVolumeInfo,
) -> tuple[RemoteFile, ...]:
    return tuple(
        RemoteFile(f.backend_type, f.backend_id, f.key, f.offset, f.file_size, f.modified_time, f.extension)
        for f in message.files
    )


def volume_info_message(info: VolumeInfo) -> volume_server_pb2.VolumeInfo:
    """The same as RPCs tell it."""
    ec = info.ec_shard_config
    return volume_server_pb2.VolumeInfo(
        files=[
            volume_server_pb2.RemoteFile(
                backend_type=file.backend_type,
                backend_id=file.backend_id,
                key=file.key,
                offset=file.offset,
                file_size=file.file_size,
                modified_time=file.modified_time,
                extension=file.extension,
            )
            for file in info.files
        ],
        version=info.version,
        replication=info.replication,
        bytes_offset=info.bytes_offset,
        dat_file_size=info.dat_file_size,
        expire_at_sec=info.expire_at_s,
        read_only=info.read_only,
        ec_shard_config=None
        if ec is None
        else volume_server_pb2.EcShardConfig(
            data_shards=ec.data_shards, parity_shards=ec.parity_shards, encode_ts_ns=ec.encode_ts_ns
        ),
        read_only_can_delete=info.read_only_can_delete,
    )


def encode_volume_info(info: VolumeInfo) -> str:
    """The text for a .vif: two-space indent, every field, no newline at the end."""
    ec = info.ec_shard_config
    fields = {
        "files": [_file_fields(file) for file in info.files],
        "version": info.version,
        "replication": info.replication,
        "bytesOffset": info.bytes_offset,
        "datFileSize": str(info.dat_file_size),
        "expireAtSec": str(info.expire_at_s),
        "readOnly": info.read_only,
        "ecShardConfig": None
        if ec is None
        else {"dataShards": ec.data_shards, "parityShards": ec.parity_shards, "encodeTsNs": str(ec.encode_ts_ns)},
        "readOnlyCanDelete": info.read_only_can_delete,
    }
    return json.dumps(fields, indent=2, ensure_ascii=False)


def _file_fields(file: RemoteFile) -> dict[str, str]:
    return {
        "backendType": file.backend_type,
        "backendId": file.backend_id,
        "key": file.key,
        "offset": str(file.offset),
        "fileSize": str(file.file_size),
        "modifiedTime": str(file.modified_time),
        "extension": file.extension,
    }
