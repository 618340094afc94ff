"""What this process has open.

Descriptors are compared by what they lead to, and never by how many there are: what an earlier test left to a thread
of gRPC or to Python's collector may be closed at any time.
"""

import os
from contextlib import suppress


def open_descriptors():
    """Gives "number link" of each descriptor. A socket's or a pipe's link names it, a file's is its path."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.add(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
    return found


def open_files(directory=""):
    """The paths that descriptors lead to, below `directory`, sorted; one for each descriptor."""
    links = (one.partition(" ")[2] for one in open_descriptors())
    return sorted(link for link in links if link.startswith(str(directory)))
