"""Volume information: the text of a .vif file, protobuf's JSON form.

Field names are camelCase, 64-bit integers are strings, unset fields are written too. Old servers named two fields
otherwise (BytesOffset, DestroyTime); their text is read as well. Source: weed/storage/volume_info.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format

from native_handlers.format.errors import BadVolumeInfo
from native_handlers.pb import volume_server_pb2
from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable


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
    """The content of a .vif. 0 and "" mean: not set. `bytes_offset` is the width of index offsets, in bytes."""

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
    """Parses the text of a .vif. Most volumes of a server have the same text; they share one object.

    Raises:
        BadVolumeInfo: the text is in neither form. An empty file is no text: treat it as absent.
    """
    return _parse_short(text) if len(text) <= _SHORT else _parse(text)


@lru_cache(maxsize=256)
def _parse_short(text: bytes | str) -> VolumeInfo:
    return _parse(text)


def _parse(text: bytes | str) -> VolumeInfo:
    usual = _parse_usual(text)
    return parse_by_protobuf(text) if usual is None else usual


def parse_by_protobuf(text: bytes | str) -> VolumeInfo:
    """Parses as `parse_volume_info` does, but always with protobuf's JSON parser, which defines the rule.

    Raises:
        BadVolumeInfo: the text is in neither form.
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


_SHORT = 4096
_MAX_UINT32 = 2**32 - 1
_INT64_TEXT = re.compile("0|[1-9][0-9]{0,17}", re.ASCII)


def _parse_usual(text: bytes | str) -> VolumeInfo | None:
    """Parses text in the form that `encode_volume_info` and upstream write for a volume on a local disk. Returns None
    for other text: protobuf's JSON parser, ten times as slow, parses that.
    """
    try:
        pairs = json.loads(text if isinstance(text, str) else text.decode(), object_pairs_hook=tuple)
    except (ValueError, RecursionError):
        return None
    if not isinstance(pairs, tuple) or len(pairs) != len({name for name, _ in pairs}):
        return None
    fields: dict[str, Any] = {}
    for name, value in pairs:
        usual = _USUAL.get(name)
        if usual is None or not usual[1](value):
            return None
        if usual[0]:
            fields[usual[0]] = int(value) if name in _INT64_FIELDS else value
    return VolumeInfo(**fields)


def _is_uint32(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MAX_UINT32


def _is_int64_text(value: object) -> bool:
    return type(value) is str and _INT64_TEXT.fullmatch(value) is not None


def _is_ascii(value: object) -> bool:
    return type(value) is str and value.isascii()


_INT64_FIELDS = frozenset(("datFileSize", "expireAtSec"))
_USUAL: dict[str, tuple[str, Callable[[object], bool]]] = {
    "files": ("", lambda value: value == []),
    "version": ("version", _is_uint32),
    "replication": ("replication", _is_ascii),
    "bytesOffset": ("bytes_offset", _is_uint32),
    "datFileSize": ("dat_file_size", _is_int64_text),
    "expireAtSec": ("expire_at_s", _is_int64_text),
    "readOnly": ("read_only", lambda value: type(value) is bool),
    "ecShardConfig": ("", lambda value: value is None),
    "readOnlyCanDelete": ("read_only_can_delete", lambda value: type(value) is bool),
}
"""Name in the file -> field ("" where it sets none) and the test of its usual values."""


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
    """The same information as an RPC message."""
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
    """Encodes the text of a .vif: two-space indent, every field, no newline at the end."""
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
