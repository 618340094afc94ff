"""What a process has open.

Descriptors are compared by what they lead to, and never by how many there are: what an earlier test left to a thread
of gRPC or to Python's collector may be closed at any time.
"""

import os
from contextlib import suppress


def links_of(pid):
    """Where each descriptor of a process leads, by number. A socket's or a pipe's link names it, a file's is its path,
    with `` (deleted)`` behind the path of a deleted one.
    """
    found = {}
    for number in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):  # closed meanwhile
            found[number] = os.readlink(f"/proc/{pid}/fd/{number}")
    return found


def open_descriptors():
    """Gives "number link" of each descriptor of this process."""
    return {f"{number} {link}" for number, link in links_of("self").items()}


def open_files(directory=""):
    """The paths that this process's descriptors lead to, below `directory`, sorted; one for each descriptor."""
    return sorted(link for link in links_of("self").values() if link.startswith(str(directory)))
