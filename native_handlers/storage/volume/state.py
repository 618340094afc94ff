"""The state of an open volume, and the request to open one."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from native_handlers.format.super_block import SuperBlock
    from native_handlers.format.vif import VolumeInfo
    from native_handlers.storage.disk.room import DiskRoom
    from native_handlers.storage.index.needle_map import NeedleIndex
    from native_handlers.storage.remote.tier_files import TieredFiles
    from native_handlers.storage.system.files import FileFacts, Files, SharedFile
    from native_handlers.storage.volume.damage import DamageReports
    from native_handlers.storage.volume.info_file import LoadedInfo
    from native_handlers.storage.volume.paths import VolumePaths
    from native_handlers.storage.volume.write_state import WriteState


class FilesSwapped(Exception):
    """The volume has other files now, or was closed: the old state must not be used any more."""


class VolumeSharing(Protocol):
    """One process's share in a volume that several processes have open. `shared.share.VolumeShare` implements it."""

    def bind(self, write_state: WriteState, files_of_owner: Files | None = None) -> None:
        """Sets the `WriteState` that takes over the other processes' changes, and whose changes are published.

        Args:
            files_of_owner: in the process that has opened the volume, the files for repairs, which must work on a full
                disk. While its `WriteState` is held, others do not write. None in the other processes.
        """

    @property
    def is_closed(self) -> bool:
        """Whether the volume was closed for all processes. Waits for nothing."""
        ...

    @property
    def was_left_busy(self) -> bool:
        """Whether a process is in a change, or has died in one. Waits for nothing."""
        ...

    @property
    def lock_wait_s(self) -> float:
        """For how long a thread of this process has been waiting for the lock between processes; 0 for none."""
        ...

    def refresh(self, opened: VolumeState) -> None:
        """Brings `opened` up to date. Raises FilesSwapped, ReadFailed."""

    def refresh_at_once(self, opened: VolumeState) -> None:
        """As `refresh`, but waits for no disk and no other thread. Raises FilesSwapped also where it would have to."""

    def is_behind(self, opened: VolumeState) -> bool:
        """Whether another process has committed more than `opened` has. Waits for nothing."""
        ...

    def join_work(
        self,
        opened: VolumeState,
        replace_opened: Callable[[VolumeState], None],
        reopen: Callable[[VolumeState], VolumeState],
    ) -> tuple[VolumeState | None, str | None]:
        """Takes the lock between processes. Returns the open state then, and the reason why the files take no writes,
        or None.
        """

    def finish(self, opened: VolumeState | None, *, is_sound: bool) -> None:
        """Commits the changes of `opened`, and releases the lock between processes."""

    def adopt(self, opened: VolumeState, *, files_generation: int) -> None:
        """Makes `opened` the files of the shared volume. Raises OSError; the shared volume is then unchanged."""

    def publishing(self, opened: VolumeState) -> AbstractContextManager[None]:
        """Commits the block's changes of `opened` and its index; under the lock."""

    def retire(self) -> None:
        """Tells every process that the volume is closed; under the lock."""

    def end(self, opened: VolumeState) -> NeedleIndex:
        """Tells every other process that the volume is closed, and returns an index of this process's own; under the
        lock.
        """

    def release(self) -> None:
        """Ends this process's share."""


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """How to open a volume.

    Args:
        create: the super block of a new volume; None opens existing files only.
        force_repair: repair although the .vif says read-only, because the volume is about to be made writable.
        forced_reason: makes the volume read-only, regardless of its files.
        cut_since_s: the machine crashed in a session that began then; writes not synced since may be torn.
        damage: gets reports of damage that reads find.
        room: the disk's room, whose reserve repairs, deletions and marks may use; None without a reserve.
        appended: gets the bytes of each batch of records, where another process watches the disk's room.
        unsynced_since_s: a session that began then did not end properly; its writes may not be on disk.
        tiers: opens the .dat of a volume in a remote tier; None where such volumes cannot be served.
        uploaded_super_block: that of the .dat which has just become the object; None where the tier is to be asked.
        must_reach_tier: the tier is waited for as long as for any read. Else opening goes on without it, soon.
        written_back_after_s: changes of that age are on disk; None where that is not certain.
    """

    files: Files
    paths: VolumePaths
    offset_width_bytes: int
    now_s: int
    create: SuperBlock | None = None
    preallocate_bytes: int = 0
    force_repair: bool = False
    forced_reason: str | None = None
    cut_since_s: int | None = None
    unsynced_since_s: int | None = None
    written_back_after_s: int | None = None
    room: DiskRoom | None = None
    appended: Callable[[int], None] | None = None
    damage: DamageReports | None = None
    tiers: TieredFiles | None = None
    uploaded_super_block: SuperBlock | None = None
    must_reach_tier: bool = False

    @property
    def files_with_reserve(self) -> Files:
        """The files to use for operations that must work on a full disk."""
        return self.files if self.room is None else self.room.files


class SeenFiles(NamedTuple):
    """The facts of a volume's files that the caller has just read, so that opening the volume does not read them again.
    None: it has not. `dat` are those of .dat, `info` is the content of .vif.
    """

    dat: FileFacts | None = None
    info: LoadedInfo | None = None


NOTHING_SEEN = SeenFiles()


class VolumeProgress(NamedTuple):
    """The progress of writing a volume: the numbers that each append changes, and that processes exchange."""

    dat_end_bytes: int
    idx_end_bytes: int
    last_append_at_ns: int
    modified_at_s: int
    last_modified_s: int
    sync_failed_end_bytes: int


@dataclass(slots=True)
class VolumeState:
    """A volume's open files and the known facts of them. Replaced as a whole when the volume is opened anew.

    Only methods of this class change fields; a test holds that. Callers of changing methods hold the volume's lock, or
    are the only ones to know the object. Readers take no lock.

    `damage` is the reason why the files take no writes, or None. `is_writable` says how they were opened. Bytes of .dat
    before `sync_failed_end_bytes` may not be on disk, and another sync would not tell, because one has failed.
    """

    paths: VolumePaths
    info: VolumeInfo
    dat: SharedFile
    idx: SharedFile
    super_block: SuperBlock
    index: NeedleIndex
    dat_end_bytes: int
    idx_end_bytes: int
    last_append_at_ns: int
    modified_at_s: int
    is_writable: bool
    damage: str | None
    sync_failed_end_bytes: int = 0
    awaits_room: bool = False
    """Whether `damage` is a lack of room for a repair."""
    last_modified_s: int = 0
    """The latest last-modified time of a needle, for volumes with a TTL. It starts as the time of the file."""
    is_synced: bool = False
    """Whether the whole content of both files is certainly on disk."""
    share: VolumeSharing | None = None
    """Connects the state to other processes; None while only this process has the volume."""
    is_tiered: bool = False
    """Whether `dat` is an object in a remote tier, which can be read and takes no records, not even deletions."""
    files_generation: int = 0
    """The number of the volume's present files since the volume was shared."""

    def release(self) -> None:
        """Releases both files; each is closed when its last reader has released it."""
        self.dat.release()
        self.idx.release()

    # ---- writing

    def begun_record(self) -> None:
        """Call before bytes are written behind the end of .dat: the next sync then has work."""
        self.is_synced = False

    def staged(self, last_modified_s: int) -> None:
        """Call when a needle of that last-modified time was written and is about to be entered."""
        self.last_modified_s = max(self.last_modified_s, last_modified_s)

    def appended(self, dat_end_bytes: int, row_bytes: int, last_append_at_ns: int, modified_at_s: int) -> None:
        """Records up to `dat_end_bytes`, and `row_bytes` of rows for them, are in the files."""
        self.dat_end_bytes = dat_end_bytes
        self.idx_end_bytes += row_bytes
        self.last_append_at_ns = last_append_at_ns
        self.modified_at_s = modified_at_s

    def synced(self) -> None:
        """Both files were synced. This sync does not tell what an earlier failed sync has lost."""
        self.is_synced = not self.sync_failed_end_bytes

    def failed_sync(self) -> None:
        """A sync of .dat failed: the kernel may have dropped bytes of .dat, and the next sync would not report that."""
        self.sync_failed_end_bytes = self.dat_end_bytes

    # ---- replacing a part

    def saved_info(self, info: VolumeInfo) -> None:
        """The .vif has the content `info` now."""
        self.info = info

    def moved_index(self, paths: VolumePaths, idx: SharedFile) -> None:
        """The rows are in `idx` at the place in `paths`; the caller releases the old file."""
        self.idx, self.paths = idx, paths

    def cleared_damage(self) -> None:
        """The files take writes again: an operator's decision overrides the known damage."""
        self.damage = None

    def replaced(self, old: VolumeState) -> None:
        """These files were opened in place of `old`. Earlier writes are on disk only where `old` was synced."""
        self.is_synced = self.is_synced and old.is_synced

    # ---- sharing with other processes

    @property
    def progress(self) -> VolumeProgress:
        return VolumeProgress(
            self.dat_end_bytes,
            self.idx_end_bytes,
            self.last_append_at_ns,
            self.modified_at_s,
            self.last_modified_s,
            self.sync_failed_end_bytes,
        )

    def followed(self, progress: VolumeProgress) -> None:
        """Another process has written the files up to `progress`: the next sync then has work."""
        ends = progress.dat_end_bytes, progress.idx_end_bytes
        self.is_synced = self.is_synced and ends == (self.dat_end_bytes, self.idx_end_bytes)
        self.dat_end_bytes, self.idx_end_bytes = progress.dat_end_bytes, progress.idx_end_bytes
        self.last_append_at_ns, self.modified_at_s = progress.last_append_at_ns, progress.modified_at_s
        self.last_modified_s, self.sync_failed_end_bytes = progress.last_modified_s, progress.sync_failed_end_bytes

    def shared(self, share: VolumeSharing, files_generation: int, index: NeedleIndex) -> None:
        """The volume is shared from now on, with `index` in place of this process's own."""
        self.share, self.files_generation = share, files_generation
        # Last: readers take the index without a lock, so everything that it needs must be set before.
        self.index = index

    def unshared(self, index: NeedleIndex) -> None:
        """Only this process has the volume from now on, with `index`, its own."""
        # First: an index of this process's own follows no share.
        self.share = None
        self.index = index
