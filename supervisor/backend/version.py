"""Which version a backend is, and how wide its offsets are.

A volume's stored offsets have 4 bytes or 5, fixed when `weed` is compiled; files of one width are unreadable with the
other. `weed version` prints ``version 30GB 4.44 COMMIT OS ARCH``, and the size limit tells the width.
Source: weed/command/version.go, weed/util/constants_4bytes.go and constants_5bytes.go, weed/storage/volume_tier.go.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from supervisor.backend.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

_VERSION_DEADLINE_S = 20.0
_WIDTH_OF_SIZE_LIMIT = {"30GB": 4, "8000GB": 5}
_DEFAULT_WIDTH_BYTES = 4
_MAX_VIF_BYTES = 1 << 20
_MAX_VIFS_READ = 1000


class BackendVersionUnknown(BackendError):
    """The program does not say which version it is, so it cannot be trusted with volumes. Nothing was started."""

    def __init__(self, program: Path, why: str) -> None:
        super().__init__(f"{program} did not say its version: {why}")
        self.program = program
        self.why = why


class OffsetWidthMismatch(BackendError):
    """Two sources demand different offset widths. Nothing was opened."""

    def __init__(self, first: OffsetWidth, second: OffsetWidth) -> None:
        super().__init__(
            f"offset width: {first.source} says {first.width_bytes} bytes, but {second.source} says"
            f" {second.width_bytes}; volumes of one width cannot be opened with the other"
        )
        self.first = first
        self.second = second


class OffsetWidthUnknown(BackendError):
    """The backend's size limit tells no width and nobody else said one. Nothing was opened."""

    def __init__(self, program: Path | None, version: BackendVersion) -> None:
        super().__init__(
            f"offset width: the backend {program} ({version}) has a size limit that tells none;"
            " give -offset.bytes=4 or 5"
        )
        self.program = program
        self.version = version


@dataclass(frozen=True, slots=True)
class BackendVersion:
    """`offset_width_bytes` is None where the size limit is not one that we know."""

    number: str
    size_limit: str
    commit: str
    platform: str

    @property
    def offset_width_bytes(self) -> int | None:
        return _WIDTH_OF_SIZE_LIMIT.get(self.size_limit)

    def __str__(self) -> str:
        return f"{self.size_limit} {self.number}" + (f" {self.commit}" if self.commit else "")


@dataclass(frozen=True, slots=True)
class OffsetWidth:
    """4 or 5, and who said so."""

    width_bytes: int
    source: str


def parse_version(output: str) -> BackendVersion | None:
    """The version in the output of ``weed version``; None where there is none."""
    for line in output.splitlines():
        words = line.split(" ")
        if words[0] == "version" and len(words) == 6:
            _, size_limit, number, commit, system, machine = words
            return BackendVersion(number, size_limit, commit, f"{system}/{machine}")
    return None


def ask_version(program: Path, environ: Mapping[str, str]) -> BackendVersion:
    """Runs ``PROGRAM version``, for 20 seconds at most. Blocks: call it before the event loop, or in a thread.

    Raises:
        BackendVersionUnknown: it cannot run, does not end, or prints something else.
    """
    try:
        done = subprocess.run(
            [str(program), "version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(environ),
            timeout=_VERSION_DEADLINE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendVersionUnknown(program, str(error)) from error
    output = done.stdout.decode(errors="replace")
    version = parse_version(output)
    if version is None:
        first_line = output.strip().partition("\n")[0]
        raise BackendVersionUnknown(program, f"its output begins with {first_line[:200]!r}")
    return version


def resolve_offset_width(
    flag_bytes: int | None, program: Path | None, version: BackendVersion | None, directories: Iterable[Path]
) -> OffsetWidth:
    """The width to work with: of the flag, else the backend, else a .vif in `directories`, else 4.

    What the .vif files say is compared with the result in every case; each single volume is checked again when opened.

    Raises:
        OffsetWidthMismatch: two of them differ.
        OffsetWidthUnknown: the backend's is not known and the flag is not set.
    """
    if version is not None and version.offset_width_bytes is None and flag_bytes is None:
        raise OffsetWidthUnknown(program, version)
    said = [OffsetWidth(flag_bytes, "-offset.bytes")] if flag_bytes else []
    if version is not None and version.offset_width_bytes is not None:
        said.append(OffsetWidth(version.offset_width_bytes, f"the backend {program} ({version})"))
    said.extend(_widths_in(directories))
    for other in said[1:]:
        if other.width_bytes != said[0].width_bytes:
            raise OffsetWidthMismatch(said[0], other)
    return said[0] if said else OffsetWidth(_DEFAULT_WIDTH_BYTES, "the default")


def _widths_in(directories: Iterable[Path]) -> Iterator[OffsetWidth]:
    """The width of the first .vif of each directory that names one."""
    for directory in directories:
        with os.scandir(directory) as entries:
            vifs = (entry.path for entry in entries if entry.name.endswith(".vif"))
            for path, _ in zip(vifs, range(_MAX_VIFS_READ), strict=False):
                width_bytes = _width_in_vif(path)
                if width_bytes is not None:
                    yield OffsetWidth(width_bytes, path)
                    break


def _width_in_vif(path: str) -> int | None:
    """None also for a file that has gone, is empty or is damaged: the store reports those when it opens the volume."""
    try:
        with open(path, "rb") as file:
            info = json.loads(file.read(_MAX_VIF_BYTES))
    except (OSError, ValueError):
        return None
    width = info.get("bytesOffset", info.get("BytesOffset")) if isinstance(info, dict) else None
    return width if width in (4, 5) else None
