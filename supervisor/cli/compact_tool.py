"""`weed-volume-py compact DIR...`: a vacuum of volumes that no server has open."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from native_handlers.records import dataclass
from native_handlers.storage.directory.location import LocationConfig
from native_handlers.storage.model.compaction import CompactionOptions
from native_handlers.storage.model.errors import StorageError
from native_handlers.storage.store import StoreConfig, open_store
from supervisor.cli.tool_arguments import lost_index, progress, size_of

if TYPE_CHECKING:
    from pathlib import Path

    from native_handlers.storage.store import Store
    from native_handlers.storage.volume.volume import Volume
    from supervisor.cli.tool_arguments import ToolArguments


@dataclass(slots=True)
class Compacted:
    """The result for one volume. If `problem` is set, the volume is unchanged."""

    name: str
    before_bytes: int
    after_bytes: int
    problem: str = ""

    def as_data(self) -> dict[str, Any]:
        """The result as JSON data."""
        return asdict(self)

    def __str__(self) -> str:
        if self.problem:
            return f"{self.name}: not compacted: {self.problem}"
        return f"{self.name}: {self.before_bytes} bytes, now {self.after_bytes}"


def compact_directory(arguments: ToolArguments, path: Path) -> list[Compacted]:
    """Opens the directory as a server does, and compacts each volume that the command line names.

    Nothing is opened where a volume lacks its index, also one that is not named: opening would make a new index.

    Raises:
        DirectoryLocked: a server runs on the directory.
        StorageError, OSError: the directory cannot be opened. Nothing was compacted.
    """
    lost = [(paths, why) for paths in arguments.all_volumes(path) if (why := lost_index(paths))]
    if lost:
        return [Compacted(str(paths.base), 0, 0, f"{why}; fix makes a new one where it is lost") for paths, why in lost]
    location = LocationConfig(path, arguments.index_path or path, max_volumes=0, min_free_bytes=0)
    store = open_store(StoreConfig((location,), arguments.offset_width_bytes))
    try:
        volumes = [volume for volume in store.volumes() if arguments.is_wanted(volume.paths.collection, volume.id)]
        unopened = _not_opened(arguments, path, store)
        return unopened + [_compact(store, volume) for volume in sorted(volumes, key=lambda one: one.paths.name)]
    finally:
        store.close()


def _not_opened(arguments: ToolArguments, path: Path, store: Store) -> list[Compacted]:
    """The volumes that have a .dat and that the store could not open, with the reasons.

    Raises OSError: the directory cannot be listed.
    """
    opened = {volume.paths.base for volume in store.volumes()}
    found = []
    for paths in arguments.volumes(path):
        if paths.base in opened:
            continue
        why = [f"{one.kind.value}: {one.detail}" for one in store.findings if one.base == paths.base]
        size_bytes = size_of(paths.file(".dat"))
        found.append(Compacted(str(paths.base), size_bytes, size_bytes, "; ".join(why) or "it was not opened"))
    return found


def _compact(store: Store, volume: Volume) -> Compacted:
    done = Compacted(str(volume.paths.base), volume.size_bytes, volume.size_bytes)
    try:
        with progress(f"compact {volume.paths.name}", volume.size_bytes) as passed:
            before = 0
            for done_bytes in volume.compaction.run(CompactionOptions()):
                passed(done_bytes - before)
                before = done_bytes
        _, done.after_bytes = store.commit_compaction(volume)
    except (StorageError, OSError) as error:
        done.problem = str(error)
        try:
            volume.compaction.cleanup()
        except (StorageError, OSError) as failure:
            done.problem += f"; the copy may be left: {failure}"
    return done
