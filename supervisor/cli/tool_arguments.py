"""The common parts of the tools that work on directories: their arguments, and a progress bar.

Exit status of each tool: 0 no problem, 1 a problem was found or a step failed, 2 the arguments cannot be used.
"""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tqdm import tqdm

from native_handlers.format.errors import BadVolumeName
from native_handlers.format.super_block import SUPER_BLOCK_BYTES
from native_handlers.format.volume_name import parse_volume_name
from native_handlers.records import dataclass
from native_handlers.storage.directory.scan import find_data_elsewhere, find_offset_width
from native_handlers.storage.system.files import OS_FILES
from native_handlers.storage.volume.dat_head import is_stub_of_shards
from native_handlers.storage.volume.paths import VolumePaths
from supervisor.config.errors import UsageError
from supervisor.config.flags import TOOL_FLAGS
from supervisor.config.go_flags import Scan, scan, unknown_flag_message
from supervisor.config.home_paths import absolute, absolute_or_none
from supervisor.config.values import FlagValues

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from native_handlers.storage.directory.scan import DataElsewhere

EXIT_HEALTHY = 0
EXIT_PROBLEMS = 1


@dataclass(frozen=True, slots=True)
class ToolArguments:
    """A command line. `volume_id` 0 stands for all volumes, `collection` "" for all collections."""

    command: str
    directories: tuple[Path, ...]
    index_path: Path | None
    offset_width_bytes: int | None
    volume_id: int
    collection: str
    as_json: bool
    values: FlagValues

    @property
    def index_is_lost(self) -> bool:
        """Whether an index may be made where there is none."""
        return "indexIsLost" in TOOL_FLAGS[self.command] and self.values.boolean("indexIsLost")

    def is_wanted(self, collection: str, volume_id: int) -> bool:
        """Whether the command line names the volume."""
        return self.volume_id in {0, volume_id} and self.collection in {"", collection}

    def width(self, directory: Path) -> int:
        """The width in bytes of the offsets of the volumes in `directory`: the flag's, else the one that the files
        show.
        """
        return self.offset_width_bytes or find_offset_width(OS_FILES, [directory])

    def volumes(self, directory: Path) -> list[VolumePaths]:
        """The volumes that the command line names and that have a .dat in `directory`, in the order of their names.

        Raises OSError: the directory cannot be listed.
        """
        return [one for one in self.all_volumes(directory) if self.is_wanted(one.collection, one.volume_id)]

    def all_volumes(self, directory: Path) -> list[VolumePaths]:
        """As `volumes`, with those that the command line does not name. A .dat left beside shards is no volume."""
        found = []
        for name in sorted(OS_FILES.list_directory(directory)):
            if not name.endswith(".dat"):
                continue
            try:
                collection, volume_id = parse_volume_name(name.removesuffix(".dat"))
            except BadVolumeName:
                continue
            paths = VolumePaths(directory, self.index_path or directory, collection, volume_id)
            if not _is_stub(paths):
                found.append(paths)
        return found

    def data_elsewhere(self, directory: Path) -> list[DataElsewhere]:
        """The volumes that the command line names and that have no .dat in `directory`.

        Raises OSError: the directory cannot be listed.
        """
        found = find_data_elsewhere(OS_FILES, directory, self.index_path or directory)
        return [one for one in found if self.is_wanted(one.paths.collection, one.paths.volume_id)]

    @property
    def named(self) -> str:
        """The volumes that the command line names, in words; "" where it names no volume and no collection."""
        words = ([f"volume {self.volume_id}"] if self.volume_id else []) + (
            [f"collection {self.collection}"] if self.collection else []
        )
        return " of ".join(words)

    def not_found(self) -> str:
        """The sentence for what the command line names and no directory has."""
        return f"{self.named} is not in {', '.join(map(str, self.directories))}"


def _is_stub(paths: VolumePaths) -> bool:
    try:
        return is_stub_of_shards(OS_FILES, paths)
    except OSError:
        # The work on the volume meets the same error, and tells of it.
        return False


def lost_index(paths: VolumePaths) -> str:
    """Why nothing may be done with a volume that has records and no .idx where that is looked for; "" else.

    A new index would take empty files for deletions, and would be found before the real one, which may be elsewhere.
    """
    if size_of(paths.file(".dat")) <= SUPER_BLOCK_BYTES or any(map(OS_FILES.facts, paths.sidecars(".idx"))):
        return ""
    return f"{paths.file('.idx')} does not exist; -dir.idx names the directory of the indexes"


def read_arguments(command: str, argv: Sequence[str], cwd: Path) -> ToolArguments:
    """Reads a command line. Flags may stand before, between and after the directories.

    Raises:
        UsageError: the arguments cannot be used. Nothing was done.
    """
    table = TOOL_FLAGS[command]
    values = FlagValues(table)
    words: list[str] = []
    part = Scan(words=list(argv))
    while part.words:
        part = scan(part.words, table)
        values.add(part.given)
        values.problems.extend(part.problems)
        values.problems.extend(unknown_flag_message(flag.name, table) for flag in part.unknown)
        if part.words:
            words.append(part.words.pop(0))
    if not words:
        values.problems.append(f"{command} needs a directory: weed-volume-py {command} [flags] DIR...")
    has_index = "dir.idx" in table
    arguments = ToolArguments(
        command,
        tuple(absolute(word, cwd) for word in words),
        absolute_or_none(values.text("dir.idx"), cwd) if has_index else None,
        (values.integer("offset.bytes") or None) if has_index else None,
        values.integer("volumeId"),
        values.text("collection"),
        values.boolean("json"),
        values,
    )
    values.check_all()
    missing = [f"{path} is not a directory" for path in arguments.directories if not path.is_dir()]
    if values.problems or missing:
        raise UsageError(*values.problems, *missing)
    return arguments


@contextmanager
def progress(what: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
    """Shows a progress bar on standard error while the block runs, if standard error is a terminal.

    Yields a function that takes the number of bytes done since its last call. Any thread may call the function.
    """
    lock = threading.Lock()
    with tqdm(
        total=total_bytes, desc=what, unit="B", unit_scale=True, unit_divisor=1024, leave=False, disable=None
    ) as bar:

        def passed(count_bytes: int) -> None:
            with lock:
                bar.update(count_bytes)

        yield passed


def size_of(path: Path) -> int:
    """The size of the file in bytes; 0 where there is no such file."""
    facts = OS_FILES.facts(path)
    return 0 if facts is None else facts.size_bytes


def complain(text: str) -> None:
    """Prints a problem on standard error."""
    print(text, file=sys.stderr)
