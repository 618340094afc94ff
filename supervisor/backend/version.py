"""The version of a backend, and the width of its offsets.

A volume's stored offsets have 4 bytes or 5. The width is fixed when `weed` is compiled, and files of one width cannot
be read with the other. `weed version` prints `version 30GB 4.44 COMMIT OS ARCH`; the size limit shows the width.
Source: weed/command/version.go, weed/util/constants_4bytes.go and constants_5bytes.go, weed/storage/volume_tier.go.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

from native_handlers.records import dataclass
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
    """The program does not print its version, so it is not trusted with volumes. Nothing was started."""

    def __init__(self, program: Path, why: str) -> None:
        super().__init__(f"{program} did not say its version: {why}")
        self.program = program
        self.why = why


class BackendOffsetWidthMismatch(BackendError):
    """Two sources name different offset widths. Nothing was opened."""

    def __init__(self, first: OffsetWidth, second: OffsetWidth) -> None:
        super().__init__(
            f"offset width: {first.source} says {first.width_bytes} bytes, but {second.source} says"
            f" {second.width_bytes}; volumes of one width cannot be opened with the other"
        )
        self.first = first
        self.second = second


class OffsetWidthUnknown(BackendError):
    """The backend's size limit shows no width, and no flag gives one. Nothing was opened."""

    def __init__(self, program: Path | None, version: BackendVersion) -> None:
        super().__init__(
            f"offset width: the backend {program} ({version}) has a size limit that tells none;"
            " give -offset.bytes=4 or 5"
        )
        self.program = program
        self.version = version


@dataclass(frozen=True, slots=True)
class BackendVersion:
    """The output of `weed version`. `offset_width_bytes` is None where the size limit is an unknown one."""

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
    """An offset width, 4 or 5, and its source in words."""

    width_bytes: int
    source: str


def parse_version(output: str) -> BackendVersion | None:
    """The version in the output of `weed version`; None where the output has none."""
    for line in output.splitlines():
        words = line.split(" ")
        if words[0] == "version" and len(words) == 6:
            _, size_limit, number, commit, system, machine = words
            return BackendVersion(number, size_limit, commit, f"{system}/{machine}")
    return None


def ask_version(program: Path, environ: Mapping[str, str]) -> BackendVersion:
    """Runs `PROGRAM version`, for at most 20 seconds. Blocks: call it before the event loop, or in a thread.

    Raises:
        BackendVersionUnknown: the program cannot run, does not end, or prints something else.
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
    """The offset width: of the flag, else of the backend, else of a .vif in `directories`, else 4.

    The widths in .vif files are compared with the result in every case. Opening a volume checks that volume again.

    Raises:
        BackendOffsetWidthMismatch: two sources differ.
        OffsetWidthUnknown: the backend's width is unknown and the flag is not set.
    """
    if version is not None and version.offset_width_bytes is None and flag_bytes is None:
        raise OffsetWidthUnknown(program, version)
    said = [OffsetWidth(flag_bytes, "-offset.bytes")] if flag_bytes else []
    if version is not None and version.offset_width_bytes is not None:
        said.append(OffsetWidth(version.offset_width_bytes, f"the backend {program} ({version})"))
    said.extend(_widths_in(directories))
    for other in said[1:]:
        if other.width_bytes != said[0].width_bytes:
            raise BackendOffsetWidthMismatch(said[0], other)
    return said[0] if said else OffsetWidth(_DEFAULT_WIDTH_BYTES, "the default")


def _widths_in(directories: Iterable[Path]) -> Iterator[OffsetWidth]:
    """The width in the first .vif of each directory that has one. A .vif without its volume does not count."""
    for directory in directories:
        present = set(os.listdir(directory))
        vifs = sorted(name for name in present if _has_volume(name, present))
        for name in vifs[:_MAX_VIFS_READ]:
            path = os.path.join(directory, name)
            width_bytes = _width_in_vif(path)
            if width_bytes is not None:
                yield OffsetWidth(width_bytes, path)
                break


def _has_volume(name: str, present: set[str]) -> bool:
    """Whether `name` is a .vif beside the data or the shards of its volume."""
    base, extension = os.path.splitext(name)
    return extension == ".vif" and not present.isdisjoint((f"{base}.dat", f"{base}.ecx"))


def _width_in_vif(path: str) -> int | None:
    """The width in a .vif. None also for a missing, empty or damaged file: the store reports those at open."""
    try:
        with open(path, "rb") as file:
            info = json.loads(file.read(_MAX_VIF_BYTES))
    except (OSError, ValueError):
        return None
    width = info.get("bytesOffset", info.get("BytesOffset")) if isinstance(info, dict) else None
    return width if width in (4, 5) else None
