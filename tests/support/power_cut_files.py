"""A file system that knows which of its changes are on disk, and what a power cut may leave of the others.

The model is that of journaling file systems:

- bytes that `sync` put on disk stay; later bytes of a file may be on disk block by block, in any combination;
- a file that grew may have any length in between, and zeros where a block was not written;
- creations, renames and removals reach the disk in order, so a prefix of them survives; `sync_directory` puts all of
  that directory's changes, and earlier ones, on disk; syncing a file says nothing of its name.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, field
from pathlib import Path

from native_handlers.storage.system.files import OsFiles

BLOCK_BYTES = 512


@dataclass
class Inode:
    """A file: its bytes on disk, and its later images, each complete, the oldest first."""

    durable: bytes = b""
    since: list[bytes] = field(default_factory=list)

    @property
    def current(self) -> bytes:
        return self.since[-1] if self.since else self.durable

    def copy(self) -> Inode:
        return Inode(self.durable, list(self.since))

    def change(self, image: bytes) -> None:
        if image != self.current:
            self.since.append(image)


@dataclass
class DiskModel:
    """`names` are the durable entries of the directories; `pending` are later changes, in order."""

    inodes: dict[int, Inode] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    pending: list[tuple[str, int | None, str | None]] = field(default_factory=list)
    """(name, inode or None for a removal, name that is removed with it)"""

    def copy(self) -> DiskModel:
        return DiskModel(
            {key: inode.copy() for key, inode in self.inodes.items()}, dict(self.names), list(self.pending)
        )

    def names_after(self, count: int) -> dict[str, int]:
        names = dict(self.names)
        for name, inode, source in self.pending[:count]:
            if source is not None:
                names.pop(source, None)
            if inode is None:
                names.pop(name, None)
            else:
                names[name] = inode
        return names


class PowerCutFiles(OsFiles):
    """The files below `root`, with a model of their state on disk. `on_step` is called before each change."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.disk = DiskModel()
        self.on_step = lambda: None
        self._inode_of: dict[int, int] = {}
        self._live: dict[str, int] = {}
        self._numbers = itertools.count(1)

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.root))

    def open(self, path, flags, mode=0o644):
        if not Path(path).is_relative_to(self.root):
            return super().open(path, flags, mode)
        name = self._name(Path(path))
        is_new = name not in self._live
        if (is_new and flags & os.O_CREAT) or flags & os.O_TRUNC:
            self.on_step()
        fd = super().open(path, flags, mode)
        if is_new:
            number = self._live[name] = next(self._numbers)
            self.disk.inodes[number] = Inode()
            self.disk.pending.append((name, number, None))
        elif flags & os.O_TRUNC:
            self.disk.inodes[self._live[name]].change(b"")
        self._inode_of[fd] = self._live[name]
        return fd

    def close(self, fd):
        self._inode_of.pop(fd, None)
        super().close(fd)

    def _changed(self, fd) -> None:
        # The descriptor may be open for writing only.
        self.disk.inodes[self._inode_of[fd]].change(Path(f"/proc/self/fd/{fd}").read_bytes())

    def write(self, fd, parts, offset_bytes):
        self.on_step()
        super().write(fd, parts, offset_bytes)
        self._changed(fd)

    def copy(self, source, source_at, target, target_at, length_bytes):
        self.on_step()
        super().copy(source, source_at, target, target_at, length_bytes)
        self._changed(target)

    def truncate(self, fd, length_bytes):
        self.on_step()
        super().truncate(fd, length_bytes)
        self._changed(fd)

    def sync(self, fd):
        self.on_step()
        inode = self.disk.inodes[self._inode_of[fd]]
        inode.durable, inode.since = inode.current, []

    def sync_directory(self, path):
        self.on_step()
        self.disk.names = self.disk.names_after(len(self.disk.pending))
        self.disk.pending.clear()

    def rename(self, source, target):
        self.on_step()
        super().rename(source, target)
        number = self._live.pop(self._name(source))
        self._live[self._name(target)] = number
        self.disk.pending.append((self._name(target), number, self._name(source)))

    def unlink(self, path):
        if self._name(path) in self._live:
            self.on_step()
            super().unlink(path)
            del self._live[self._name(path)]
            self.disk.pending.append((self._name(path), None, None))


def survivors(inode: Inode) -> list[bytes]:
    """Contents that a power cut may leave of a file: the significant ones, each once."""
    images = [inode.durable, *inode.since]
    found = list(images)
    for before, after in itertools.pairwise(images):
        changed = changed_blocks(before, after)
        if len(after) > len(before):
            found.append(after[: (len(before) + len(after)) // 2])
        found += [mixed(before, after, chosen) for chosen in ([], changed[:1], changed[-1:], changed[1:-1])]
    oldest, newest = images[0], images[-1]
    blocks = changed_blocks(oldest, newest)
    found += [mixed(oldest, newest, chosen) for chosen in (blocks[-1:], blocks[:-1], blocks[::2], blocks[1::2])]
    return list(dict.fromkeys(found))


def changed_blocks(before: bytes, after: bytes) -> list[int]:
    """The positions of the blocks of `after` that differ."""
    starts = range(0, len(after), BLOCK_BYTES)
    return [at for at in starts if before[at : at + BLOCK_BYTES] != after[at : at + BLOCK_BYTES]]


def mixed(before: bytes, after: bytes, chosen: list[int]) -> bytes:
    """A file as long as `after`: the blocks at `chosen` from `after`, others from `before`, zeros where `before` had
    none.
    """
    image = bytearray(before[: len(after)].ljust(len(after), b"\0"))
    for at in chosen:
        image[at : at + BLOCK_BYTES] = after[at : at + BLOCK_BYTES]
    return bytes(image)


def after_cut(disk: DiskModel, pick) -> dict[str, bytes]:
    """One directory that a cut may leave. `pick(options)` makes each choice."""
    names = disk.names_after(pick(list(range(len(disk.pending), -1, -1))))
    return {name: pick(survivors(disk.inodes[number])) for name, number in sorted(names.items())}


def all_after_cut(disk: DiskModel):
    """Every directory that `after_cut` can make."""
    for count in range(len(disk.pending) + 1):
        names = sorted(disk.names_after(count).items())
        for contents in itertools.product(*(survivors(disk.inodes[number]) for _, number in names)):
            yield dict(zip((name for name, _ in names), contents, strict=True))
