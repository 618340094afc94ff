"""`weed-volume-py export DIR...`: lists the files in volumes, or writes them to a tar file.

Source: weed/command/export.go. Wilful differences: several volumes at once; names in the tar file never lead out of
the directory in which the file is unpacked; an existing output is not overwritten; `-json` prints one JSON object
a line; damage ends the export of the volume with an error, and exit status 1.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
import tarfile
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Self

from native_handlers.format.fid import format_needle_id_cookie
from native_handlers.storage.export import ExportFailed, walk_needles
from native_handlers.storage.model.errors import StorageError
from native_handlers.storage.system.files import OS_FILES
from supervisor.cli.tool_arguments import EXIT_HEALTHY, EXIT_PROBLEMS, complain, progress, size_of
from supervisor.config.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from native_handlers.format.needle import Needle
    from native_handlers.storage.export import Exported
    from native_handlers.storage.volume.paths import VolumePaths
    from supervisor.cli.tool_arguments import ToolArguments

TIME_FORMAT = "%Y-%m-%dT%H:%M:%S"
COLUMNS = ("key", "name", "size", "gzip", "mime", "modified", "ttl", "deleted", "start", "stop")
_FIELD = re.compile(r"\{\{\s*\.(\w+)\s*\}\}")
_FIELDS = frozenset({"Id", "Name", "Mime", "Key", "Ext"})
_STANDARD_OUTPUT = ("", "-")
_GZIP = b"\x1f\x8b"


def run_export(arguments: ToolArguments) -> int:
    """Returns 0 when all files were exported, 1 when a file could not be exported.

    Raises:
        UsageError: the arguments cannot be used. Nothing was written.
        OSError: standard output cannot be written.
    """
    newer_s, template = _newer(arguments), _template(arguments)
    output = arguments.values.text("o")
    limit = arguments.values.integer("limit")
    with_deleted = arguments.values.boolean("deleted") and not output
    try:
        volumes = [paths for directory in arguments.directories for paths in arguments.volumes(directory)]
        status = _tell_left_out(arguments, is_found=bool(volumes))
        with _Sink(arguments, output, template) as sink:
            for paths in volumes:
                try:
                    for one in _walk(arguments, paths, with_deleted=with_deleted):
                        if limit and sink.count >= limit:
                            break
                        if not (one.needle.has_last_modified and one.needle.last_modified_s < newer_s):
                            sink.add(paths.volume_id, one)
                except StorageError as error:
                    complain(str(error))
                    status = EXIT_PROBLEMS
    except OSError as error:
        if error.filename is None and output in _STANDARD_OUTPUT:
            raise
        complain(f"{error.filename or output}: {error.strerror}")
        return EXIT_PROBLEMS
    return status


def _tell_left_out(arguments: ToolArguments, *, is_found: bool) -> int:
    """Names what is not exported: volumes without a .dat, and what the command line names and no directory has.

    Returns the exit status. Raises OSError: a directory cannot be listed.
    """
    left = [one for directory in arguments.directories for one in arguments.data_elsewhere(directory)]
    for one in left:
        complain(f"{one.paths.base}: nothing is exported: {one.why}")
    if arguments.named and not is_found and not left:
        complain(arguments.not_found())
        return EXIT_PROBLEMS
    return EXIT_PROBLEMS if left else EXIT_HEALTHY


def _walk(arguments: ToolArguments, paths: VolumePaths, *, with_deleted: bool) -> Iterator[Exported]:
    """The needles of a volume, while a bar shows the progress. Raises ExportFailed also where a file cannot be read:
    an error of the output has to end the export, and one of a volume has not.
    """
    try:
        width = arguments.width(paths.data_dir)
        with progress(f"export {paths.name}", size_of(paths.file(".dat"))) as passed:
            yield from walk_needles(OS_FILES, paths, width, with_deleted=with_deleted, passed=passed)
    except OSError as error:
        raise ExportFailed(f"{error.filename or paths.base}: {error.strerror}") from error


def _newer(arguments: ToolArguments) -> float:
    text = arguments.values.text("newer")
    if not text:
        return 0.0
    try:
        return datetime.strptime(text, TIME_FORMAT).astimezone().timestamp()
    except ValueError as error:
        raise UsageError(f"-newer={text} is no time; expected one like 2006-01-02T15:04:05") from error


def _template(arguments: ToolArguments) -> str:
    template = arguments.values.text("fileNameFormat")
    unknown = sorted(set(_FIELD.findall(template)) - _FIELDS)
    if unknown or "{{" in _FIELD.sub("", template):
        raise UsageError(
            f"-fileNameFormat={template}: expected {', '.join(f'{{{{.{name}}}}}' for name in sorted(_FIELDS))}"
        )
    return template


class _Sink:
    """The destination of the files: a listing on standard output, or a tar file."""

    def __init__(self, arguments: ToolArguments, output: str, template: str) -> None:
        self.count = 0
        self._as_json, self._template, self._output = arguments.as_json, template, output
        self._tar: tarfile.TarFile | None = None

    def __enter__(self) -> Self:
        if self._output == "-":
            self._tar = tarfile.open(fileobj=sys.stdout.buffer, mode="w|")
        elif self._output:
            if not self._output.endswith(".tar"):
                raise UsageError(f"-o={self._output} should be - or end with .tar")
            try:
                self._tar = tarfile.open(Path(self._output).expanduser(), "x")
            except FileExistsError as error:
                raise UsageError(f"-o={self._output} is there already; name a new file") from error
        elif not self._as_json:
            print("\t".join(COLUMNS))
        return self

    def __exit__(self, *_error: object) -> None:
        if self._tar is not None:
            self._tar.close()

    def add(self, volume_id: int, one: Exported) -> None:
        self.count += 1
        if self._tar is not None:
            self._add_to_tar(self._tar, volume_id, one.needle)
            return
        row = _row(volume_id, one)
        print(json.dumps(row) if self._as_json else "\t".join(map(_shown, row.values())))

    def _add_to_tar(self, tar: tarfile.TarFile, volume_id: int, needle: Needle) -> None:
        member = tarfile.TarInfo(_member_name(self._template, volume_id, needle))
        data = bytes(needle.data)
        member.size = len(data)
        member.mode = 0o644
        member.uid, member.gid = os.getuid(), os.getgid()
        member.mtime = needle.last_modified_s if needle.has_last_modified else 0
        tar.addfile(member, io.BytesIO(data))


def _member_name(template: str, volume_id: int, needle: Needle) -> str:
    name = needle.name.decode("utf-8", "replace")
    fields = {
        "Id": f"{needle.needle_id:x}",
        "Name": name,
        "Mime": needle.mime.decode("utf-8", "replace"),
        "Key": _key(volume_id, needle),
        "Ext": PurePosixPath(name).suffix if name else "",
    }
    made = _FIELD.sub(lambda found: fields[found[1]], template)
    if needle.is_compressed and bytes(needle.data[:2]) == _GZIP and not made.endswith(".gz"):
        made += ".gz"
    safe = "/".join(part for part in made.split("/") if part not in {"", ".", ".."})
    return safe or fields["Key"]


def _key(volume_id: int, needle: Needle) -> str:
    return f"{volume_id},{format_needle_id_cookie(needle.needle_id, needle.cookie)}"


def _row(volume_id: int, one: Exported) -> dict[str, object]:
    needle = one.needle
    is_tombstone = not one.is_live and not needle.data
    values = (
        _key(volume_id, needle),
        "*tombstone" if is_tombstone else needle.name.decode("utf-8", "replace"),
        len(needle.data),
        needle.is_compressed,
        needle.mime.decode("utf-8", "replace"),
        _time_text(needle.last_modified_s),
        str(needle.ttl) if needle.ttl is not None else "",
        not one.is_live,
        one.start_bytes,
        one.end_bytes,
    )
    return dict(zip(COLUMNS, values, strict=True))


def _time_text(time_s: int) -> str:
    """Local time, as upstream; the seconds where the calendar has no such time. A client may set any of 5 bytes."""
    try:
        return datetime.fromtimestamp(time_s).strftime(TIME_FORMAT)  # noqa: DTZ006
    except (OverflowError, ValueError, OSError):
        return str(time_s)


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def _shown(value: object) -> str:
    """A cell of the listing. Control characters are escaped: a client's name with a line feed would forge a row."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
