"""Chooses the place of a file that another server sends, and refuses places where it would do harm.

No sent file replaces a file of a mounted volume, or joins the files of another collection's volume of the same id. The
one exception is the `.vif` that an erasure-coded volume shares with the regular volume from which it is made: its
content is checked first.

Source: weed/server/volume_grpc_copy.go (ReceiveFile), weed/worker/tasks/erasure_coding/ec_task.go.
"""

from __future__ import annotations

from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from native_handlers.format.errors import BadVolumeInfo
from native_handlers.format.idx import row_bytes
from native_handlers.format.needle import actual_size
from native_handlers.format.types import VERSION_3, max_volume_size_bytes, normal_disk_type
from native_handlers.format.vif import VolumeInfo, parse_volume_info
from native_handlers.format.volume_name import format_volume_name
from native_handlers.records import dataclass
from native_handlers.storage.directory.arrival import keep_doubtful_info
from native_handlers.storage.directory.placement import check_room, choose_for_decoded, place_for_shards
from native_handlers.storage.model.errors import (
    DiskTooSmall,
    NoDiskForShard,
    NoSuchDisk,
    ReceiveRefused,
    VolumeArriving,
)
from native_handlers.storage.model.file_kinds import (
    CODED_EXTENSIONS,
    STAGED,
    VOLUME_EXTENSIONS,
    in_use_text,
    is_reserved,
    other_collection_text,
)
from native_handlers.storage.transfer.receive import StagedFile
from native_handlers.storage.volume.dat_head import is_bare
from native_handlers.storage.volume.info_file import is_coded, load_volume_info
from native_handlers.storage.volume.paths import VolumePaths

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from native_handlers.storage.directory.location import DiskLocation
    from native_handlers.storage.disk.space import DiskUsage
    from native_handlers.storage.system.files import Files
    from native_handlers.storage.volume.volume import Volume

MAX_VIF_BYTES = 1 << 20
"""The limit of VolumeCopy for the same file."""
_MAX_BODY_BYTES = 2**31 - 1
"""The greatest size that the head of a record can state."""


# ---- The facts of a sent file, and of the volume beside it.


class RemoteObject(NamedTuple):
    """The data of a volume in a remote tier: the tier's name, as ``s3.default``, and the key."""

    backend_name: str
    key: str


def objects_of(info: VolumeInfo) -> list[RemoteObject]:
    """The objects that a .vif names."""
    return [RemoteObject(file.backend_name, file.key) for file in info.files]


@dataclass(frozen=True, slots=True)
class MountedVolume:
    """The facts of the regular volume that a sent `.vif` beside it must not change."""

    collection: str
    version: int
    replication: str
    is_read_only: bool
    is_bare: bool = False
    """Whether the volume holds no record and was never vacuumed."""
    remote_object: RemoteObject | None = None


class DataBeside(Enum):
    """The data of a regular volume beside a `.vif`."""

    NONE = auto()
    BARE = auto()
    """A .dat without records. With a .vif of an erasure-coded volume beside it, a start takes the .dat for the stub
    that an encoding leaves."""
    SOME = auto()


def receive_file(
    files: Files,
    locations: Sequence[DiskLocation],
    volume: Volume | None,
    wanted: ReceiveRequest,
    offset_width_bytes: int,
) -> StagedFile:
    """Makes the file. The caller writes the file and commits it. The commit of a .vif raises ReceiveRefused if the .vif
    does not fit this server, or the regular volume beside it.

    Deliberate differences: upstream lets a sender overwrite .dat, .idx and other files of a mounted volume, accepts any
    name and any length, and does not look at the free space.

    The caller has checked that no other collection has data of the id; see `VolumeIds`.

    Args:
        volume: the mounted volume of that id.

    Raises:
        ReceiveRefused: with upstream's text where upstream has one. No file was made.
        VolumeArriving: the volume is being copied there. No file was made.
        DiskUnavailable: the disk for the file is out of service. No file was made.
        OSError: the file cannot be made.
    """
    if wanted.is_coded:
        return _coded(files, locations, volume, wanted, offset_width_bytes)
    if volume is None:
        location = _location_of_staged(files, locations, wanted)
        target = location.path / (wanted.name + STAGED)
    else:
        volume.check_in_service()
        if is_reserved(wanted.extension):
            raise ReceiveRefused(in_use_text(wanted.volume_id, wanted.extension))
        location, target = locations[volume.disk_id], volume.paths.file(wanted.extension)
        _check_room(location, wanted)
    most = _most_bytes(wanted.extension, offset_width_bytes)
    return StagedFile(files, target, max_bytes=most, usage=location.usage)


def _most_bytes(extension: str, width: int) -> int:
    """The greatest length of a file of a regular volume: that of a .dat whose last record begins at the last place that
    offsets address. An .idx is shorter.
    """
    if extension == ".vif":
        return MAX_VIF_BYTES
    return max_volume_size_bytes(width) + actual_size(_MAX_BODY_BYTES, VERSION_3)


def _coded(
    files: Files,
    locations: Sequence[DiskLocation],
    volume: Volume | None,
    wanted: ReceiveRequest,
    offset_width_bytes: int,
) -> StagedFile:
    if wanted.extension not in CODED_EXTENSIONS:
        raise ReceiveRefused(f"{wanted.extension} is no file of an erasure-coded volume")
    if volume is not None and volume.collection != wanted.collection:
        raise ReceiveRefused(other_collection_text(volume.id, volume.collection, wanted.collection))
    location = _location_of_coded(files, locations, wanted)
    if wanted.volume_id in location.arriving:
        raise VolumeArriving(wanted.volume_id)
    location.check_in_service()
    target = location.path / wanted.name
    if wanted.extension == ".ecx":
        return _IndexFile(files, target, offset_width_bytes, wanted.max_bytes, location.usage)
    if wanted.extension != ".vif":
        return StagedFile(files, target, max_bytes=wanted.max_bytes, usage=location.usage)
    paths = VolumePaths(location.path, location.idx_path, wanted.collection, wanted.volume_id)
    return coded_info_file(files, paths, volume, offset_width_bytes)


class _IndexFile(StagedFile):
    """A sent .ecx. One whose last row is partial is refused, and an empty one where the present one has rows: that of a
    volume without live needles is empty, and so is that of a sending which failed. Its coding is not compared: neither
    the request nor an .ecx names one.
    """

    def __init__(
        self, files: Files, target: Path, offset_width_bytes: int, max_bytes: int | None, usage: DiskUsage
    ) -> None:
        """As `StagedFile`. Raises OSError."""
        super().__init__(files, target, max_bytes=max_bytes, usage=usage)
        self._width = offset_width_bytes

    def complete(self, modified_at_ns: int = 0) -> None:
        facts = None if self.size_bytes else self._files.facts(self.target)
        why = ""
        if self.size_bytes % row_bytes(self._width):
            why = f"the .ecx has {self.size_bytes} bytes, and its last row is partial"
        elif facts is not None and facts.size_bytes:
            why = "the .ecx is 0 bytes, and the one that is here has rows"
        if why:
            self.discard()
            raise ReceiveRefused(why)
        super().complete(modified_at_ns)


def coded_info_file(files: Files, paths: VolumePaths, volume: Volume | None, offset_width_bytes: int) -> StagedFile:
    """The .vif of an erasure-coded volume that another server sends, to be written and committed. `volume` is the
    mounted regular one of that id. The commit raises ReceiveRefused where the .vif does not fit this server, or the
    regular volume that lies beside it or in a remote tier.

    Raises:
        ReceiveRefused: a volume of that id and another collection is mounted.
        OSError: the file cannot be made.
    """
    mounted = None
    if volume is not None:
        if volume.collection != paths.collection:
            raise ReceiveRefused(other_collection_text(volume.id, volume.collection, paths.collection))
        version, replication = volume.version, str(volume.replica_placement)
        mounted = MountedVolume(volume.collection, version, replication, volume.is_read_only)

    def check(text: bytes) -> None:
        data = DataBeside.NONE
        if files.facts(paths.file(".dat")) is not None:
            # A .vif with an encoding may replace one with an encoding: a stub stays a stub.
            data = (
                DataBeside.BARE
                if is_bare(files, paths.file(".dat")) and not is_coded(files, paths)
                else DataBeside.SOME
            )
        present = load_volume_info(files, paths.file(".vif")).info
        check_coded_info(text, offset_width_bytes, mounted, data, objects_of(present))

    return _InfoFile(files, paths, check)


class _InfoFile(StagedFile):
    """A sent .vif. One that is here, cannot be parsed and may say where the data of a volume is, is moved aside before
    the sent one gets its name.
    """

    def __init__(self, files: Files, paths: VolumePaths, check: Callable[[bytes], None]) -> None:
        """As `StagedFile`. Raises OSError."""
        super().__init__(files, paths.file(".vif"), check=check, max_bytes=MAX_VIF_BYTES)
        self._paths = paths

    def publish(self) -> None:
        try:
            keep_doubtful_info(self._files, self._paths)
        except OSError:
            self.discard()
            raise
        super().publish()

    def close_complete(self) -> None:
        keep_doubtful_info(self._files, self._paths)
        super().close_complete()


def check_coded_info(
    text: bytes, width: int, mounted: MountedVolume | None, data: DataBeside, objects: Collection[RemoteObject]
) -> None:
    """Raises ReceiveRefused for a .vif that would make the next start misjudge the files beside the .vif, or would lose
    the reference to data in a remote tier.

    Args:
        mounted: the regular volume of that id; None without one.
        data: the data of a regular volume beside the .vif, whether the volume is mounted or not.
        objects: those that the .vif that is here names.
    """
    try:
        info = parse_volume_info(text) if text or data is not DataBeside.NONE else VolumeInfo()
    except BadVolumeInfo as error:
        raise ReceiveRefused(f"the .vif cannot be parsed: {error}") from error
    if info.bytes_offset not in {0, width}:
        why = f"the .vif says {info.bytes_offset}-byte offsets, this server runs with {width}-byte ones"
    elif lost := [one for one in objects if one not in objects_of(info)]:
        place = f"remote storage {lost[0].backend_name}"
        why = f"the .vif that is here says that the data is in {place}, and the sent one does not"
    elif data is DataBeside.NONE:
        return
    elif info.files:
        why = "the .vif says that the data is in remote storage, and the volume's data is here"
    elif info.ec_shard_config is None:
        why = "the .vif is of no erasure-coded volume, and a regular volume's data lies beside it"
    elif data is DataBeside.BARE:
        why = "the volume whose data lies beside is empty: the next start would take it for a stub of shards"
    elif mounted is None:
        return
    elif info.version not in {0, mounted.version}:
        why = f"the .vif says version {info.version}, the volume that is mounted here has version {mounted.version}"
    elif info.replication not in {"", mounted.replication}:
        why = f"the .vif says replication {info.replication}, the volume that is mounted here has {mounted.replication}"
    elif info.read_only and not mounted.is_read_only:
        why = "the .vif says read-only, and the volume that is mounted here takes writes"
    else:
        return
    raise ReceiveRefused(why)


def check_not_mounted(volume_id: int, disk_ids: Sequence[int]) -> None:
    """Raises ReceiveRefused where shards of the volume are mounted: a file that is replaced would stay open, and what
    is deleted then would be noted in a journal without a name.
    """
    if disk_ids:
        mounted = f"ec volume {volume_id} is mounted on disk_ids:[{' '.join(map(str, disk_ids))}]"
        raise ReceiveRefused(f"{mounted}; unmount before ReceiveFile")


def _location_of_coded(files: Files, locations: Sequence[DiskLocation], wanted: ReceiveRequest) -> DiskLocation:
    check_not_mounted(wanted.volume_id, wanted.mounted_disk_ids)
    try:
        return place_for_shards(
            files,
            locations,
            wanted.collection,
            wanted.volume_id,
            (),
            disk_id=wanted.disk_id,
            needed_bytes=wanted.size_bytes,
        )
    except NoSuchDisk as error:
        raise ReceiveRefused(str(error)) from error
    except NoDiskForShard as error:
        raise ReceiveRefused("no storage location available") from error
    except DiskTooSmall as error:
        raise _no_space(wanted, error) from error


def _check_room(location: DiskLocation, wanted: ReceiveRequest) -> None:
    try:
        check_room(location, wanted.size_bytes)
    except DiskTooSmall as error:
        raise _no_space(wanted, error) from error


def _no_space(wanted: ReceiveRequest, error: DiskTooSmall) -> ReceiveRefused:
    return ReceiveRefused(f"no space left for {wanted.size_bytes} bytes: {error}")


def _location_of_staged(files: Files, locations: Sequence[DiskLocation], wanted: ReceiveRequest) -> DiskLocation:
    if not wanted.disk_type:
        raise ReceiveRefused(f"volume {wanted.volume_id} not found")

    if any(wanted.volume_id in location.arriving for location in locations):
        raise VolumeArriving(wanted.volume_id)
    disk_type = normal_disk_type(wanted.disk_type)
    choose = partial(choose_for_decoded, files, locations, disk_type, wanted.collection, wanted.volume_id)
    location = choose(wanted.size_bytes) or choose()
    if location is None:
        where = f"no {wanted.disk_type} disk location with a free slot"
        raise ReceiveRefused(f"{where} for volume {wanted.volume_id}")
    if wanted.extension not in VOLUME_EXTENSIONS:
        raise ReceiveRefused(f"{wanted.extension} is no file of a volume that is to come: .dat, .idx and .vif are")
    _check_room(location, wanted)
    # An earlier attempt may have begun on a disk that is full by now. What it left must not be taken for this one's.
    for other in locations:
        if other is not location and other.disk_type == disk_type and not other.is_unavailable:
            files.unlink(other.path / (wanted.name + STAGED))
    return location


@dataclass(frozen=True, slots=True)
class ReceiveRequest:
    """A file that another server sends. `extension` and `collection` are used only as parts of a file name.

    Args:
        is_coded: whether the file belongs to an erasure-coded volume.
        disk_type: the type of the volume's disk, as the sender names the type. Used only for a volume that this server
            lacks. Empty if the sender names no type.
        disk_id: for a file of an erasure-coded volume; 0 for any disk.
        size_bytes: the length that the sender announces; 0 where that is not known.
        max_bytes: the greatest length of a file of an erasure-coded volume; None for any length.
        mounted_disk_ids: the disks on which shards of that volume are mounted.
    """

    volume_id: int
    collection: str
    extension: str
    is_coded: bool = False
    disk_type: str = ""
    disk_id: int = 0
    size_bytes: int = 0
    max_bytes: int | None = None
    mounted_disk_ids: Sequence[int] = ()

    @property
    def name(self) -> str:
        return format_volume_name(self.collection, self.volume_id) + self.extension
