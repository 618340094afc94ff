"""A Unix socket that no other user can reach: a server listens on it, and this process and its children can connect."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor.net.errors import NoPrivateSocket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_NAME = "s.sock"


@contextmanager
def private_socket(listen: Callable[[Path], None]) -> Iterator[Path]:
    """Calls `listen` with a path, at which `listen` makes a socket. Gives the path by which this process connects.

    The socket is made in a directory of mode 0700. Both names are removed as soon as the socket listens. So no other
    user can reach the socket, and a killed process leaves no file. This process connects through a descriptor of the
    socket. Both paths go through /proc/self/fd: they are short (the kernel allows 107 bytes), and they mean the same
    file only in this process, and in a child that has a copy of the descriptor (`descriptor_of`).

    Raises:
        NoPrivateSocket: the temporary directory cannot be written, or `listen` failed. No file is left.
    """
    opened: list[int] = []
    try:
        try:
            with tempfile.TemporaryDirectory(prefix="weed-volume-py-") as directory:
                # The directory stays open to the end: a server removes its socket's path when it closes, and that path
                # must not lead into another directory.
                opened.append(os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
                listen(_path_of(opened[0]) / _NAME)
                opened.append(os.open(Path(directory) / _NAME, os.O_PATH | os.O_CLOEXEC))
        except (OSError, RuntimeError) as error:
            raise NoPrivateSocket(str(error)) from error
        yield _path_of(opened[1])
    finally:
        for descriptor in opened:
            os.close(descriptor)


def descriptor_of(path: Path) -> int:
    """The descriptor behind a path of `private_socket`. A child with a copy connects through the copy's path."""
    return int(path.name)


def _path_of(descriptor: int) -> Path:
    return Path(f"/proc/self/fd/{descriptor}")
