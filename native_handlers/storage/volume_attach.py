"""Opens a volume that another process shares, and joins in its work. See docs/sharing.md."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from native_handlers.format.super_block import SUPER_BLOCK_BYTES, parse_super_block, super_block_size
from native_handlers.storage.errors import VolumeClosed, WriteFailed
from native_handlers.storage.files import SharedFile
from native_handlers.storage.index_base import empty_base
from native_handlers.storage.needle_index import Counters, Layers
from native_handlers.storage.shared_index import SharedNeedleIndex
from native_handlers.storage.shared_state import SharedState
from native_handlers.storage.volume_info_file import load_volume_info
from native_handlers.storage.volume_open import Opened
from native_handlers.storage.volume_share import FilesSwapped, VolumeShare

if TYPE_CHECKING:
    from collections.abc import Callable

    from native_handlers.storage.files import Files
    from native_handlers.storage.volume_paths import VolumePaths


def create_share(files: Files, paths: VolumePaths, offset_width_bytes: int) -> tuple[int, VolumeShare]:
    """A descriptor to hand to other processes, and this process's part. Raises OSError."""
    fd = files.memory_file(f"volume-{paths.name}")
    try:
        own = files.reopen(fd)
        try:
            state = SharedState.create(files, own, paths, offset_width_bytes)
        except BaseException:
            files.close(own)
            raise
    except BaseException:
        files.close(fd)
        raise
    return fd, VolumeShare(files, own, state, offset_width_bytes)


def attach_share(files: Files, fd: int) -> tuple[VolumeShare, Opened]:
    """This process's part in the volume that `fd` stands for, and its files, open. `fd` stays the caller's.

    Raises:
        ShareLost: `fd` is no shared volume.
        VolumeClosed: it was closed.
        OSError, FormatError: its files cannot be opened.
    """
    own = files.reopen(fd)
    try:
        state, paths, width = SharedState.attach(own)
        share = VolumeShare(files, own, state, width)
        while True:
            opened = open_shared(share, paths)
            try:
                share.follow(opened)
            except FilesSwapped:
                opened.release()
                continue
            except BaseException:
                opened.release()
                raise
            return share, opened
    except BaseException:
        files.close(own)
        raise


def open_shared(share: VolumeShare, paths: VolumePaths) -> Opened:
    """The volume's files as they are now. Nothing of their index is known yet: `VolumeShare.follow` comes next."""
    files = share.files
    while True:
        state = share.state.read()
        if state.is_closed:
            raise VolumeClosed(paths.volume_id)
        table = share.state.read_table(state)
        if share.state.is_present(state):
            break
    flags = os.O_RDWR if table.is_writable else os.O_RDONLY
    dat = SharedFile.open(files, paths.file(".dat"), flags)
    try:
        idx = SharedFile.open(files, paths.file(".idx"), flags)
        try:
            head = files.read(dat.fd, SUPER_BLOCK_BYTES, 0)
            super_block = parse_super_block(files.read(dat.fd, super_block_size(head), 0))
            info = load_volume_info(files, paths.file(".vif")).info
        except BaseException:
            idx.release()
            raise
    except BaseException:
        dat.release()
        raise
    layers = Layers(empty_base(has_high=share.width == 5), None, {})
    index = SharedNeedleIndex(layers, Counters(), share.state.words, lambda: share.follow(opened))
    opened = Opened(
        paths=paths,
        info=info,
        dat=dat,
        idx=idx,
        super_block=super_block,
        index=index,
        dat_end_bytes=0,
        idx_end_bytes=0,
        last_append_at_ns=0,
        modified_at_s=0,
        is_writable=bool(table.is_writable),
        damage=None,
        share=share,
        files_generation=state.files_generation,
    )
    return opened


def join_work(
    share: VolumeShare, opened: Opened, replace_opened: Callable[[Opened], None], reopen: Callable[[Opened], Opened]
) -> tuple[Opened | None, str | None]:
    """Takes the lock of a shared volume, brings `opened` up to date, and repairs what the last holder left.

    Returns what is open now, None when the volume was closed, and why its files can take no more writes, if so.
    `replace_opened` is given files that take the place of `opened`; `reopen` opens everything anew, repairs it, and
    shares it.

    Raises:
        WriteFailed: a file operation failed. The lock is free, and the next one who takes it tries again.
    """
    problem = None
    try:
        state = share.lock()
    except OSError as error:
        raise WriteFailed(opened.dat.path, 0, error) from error
    try:
        if state.is_closed:
            share.begin()
            return None, None
        if state.files_generation != opened.files_generation:
            opened = open_shared(share, opened.paths)
            replace_opened(opened)
        if share.was_left_busy:
            if share.is_swapped(opened):
                opened = reopen(opened)
            else:
                problem = share.repair(opened)
        if problem is None:
            share.follow(opened)
        share.begin()
    except OSError as error:
        share.unlock()
        raise WriteFailed(opened.dat.path, 0, error) from error
    except BaseException:
        share.unlock()
        raise
    return opened, problem
