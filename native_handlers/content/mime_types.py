"""The MIME type of a file name extension.

Upstream asks its library, which knows the types below and adds those of the machine's files, so two machines may
differ. The same files are read here, in the same order. The program then adds types of its own, which override both.
Source: Go's mime.TypeByExtension, weed/admin/dash/file_mime.go.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from native_handlers.http_model.errors import BadMediaType
from native_handlers.http_model.media_type import format_media_type, parse_media_type

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_TEXT_TYPES = {
    "text/calendar": "ics",
    "text/css": "css",
    "text/csv": "csv",
    "text/html": "ehtml htm html shtml",
    "text/javascript": "js mjs",
    "text/plain": "text txt",
    "text/vtt": "vtt",
    "text/xml": "xbl xml xsl",
}
_OTHER_TYPES = {
    "application/gzip": "gz",
    "application/json": "json",
    "application/msword": "doc",
    "application/octet-stream": "bin com exe",
    "application/pdf": "pdf",
    "application/postscript": "ai eps ps",
    "application/rdf+xml": "rdf",
    "application/rtf": "rtf",
    "application/vnd.android.package-archive": "apk",
    "application/vnd.ms-excel": "xls",
    "application/vnd.ms-powerpoint": "ppt",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": "pptx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/wasm": "wasm",
    "application/xhtml+xml": "xht xhtml",
    "application/zip": "zip",
    "audio/flac": "flac",
    "audio/mp4": "m4a",
    "audio/mpeg": "mp3",
    "audio/ogg": "oga ogg opus",
    "audio/wav": "wav",
    "audio/webm": "webm",
    "image/apng": "apng",
    "image/avif": "avif",
    "image/bmp": "bmp",
    "image/gif": "gif",
    "image/jpeg": "jfif jpeg jpg pjp pjpeg",
    "image/png": "png",
    "image/svg+xml": "svg",
    "image/tiff": "tif tiff",
    "image/vnd.microsoft.icon": "ico",
    "image/webp": "webp",
    "image/x-xbitmap": "xbm",
    "message/rfc822": "eml",
    "video/mp4": "mp4",
    "video/ogg": "ogv",
}
PROGRAM_TYPES = {
    "application/gzip": "gz",
    "application/javascript": "js mjs",
    "application/json": "json",
    "application/msword": "doc",
    "application/pdf": "pdf",
    "application/vnd.ms-excel": "xls",
    "application/vnd.ms-powerpoint": "ppt",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": "pptx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/x-7z-compressed": "7z",
    "application/x-bzip2": "bz2",
    "application/x-rar-compressed": "rar",
    "application/x-tar": "tar",
    "application/xml": "xml",
    "application/zip": "zip",
    "audio/aac": "aac",
    "audio/flac": "flac",
    "audio/mpeg": "mp3",
    "audio/ogg": "ogg",
    "audio/wav": "wav",
    "image/bmp": "bmp",
    "image/gif": "gif",
    "image/jpeg": "jpeg jpg",
    "image/png": "png",
    "image/svg+xml": "svg",
    "image/webp": "webp",
    "image/x-icon": "ico",
    "text/css": "css",
    "text/csv": "csv",
    "text/html": "htm html",
    "text/markdown": "markdown md",
    "text/plain": "cfg conf env gitattributes gitignore ini log properties txt",
    "text/sql": "sql",
    "text/typescript": "ts",
    "text/x-c": "c",
    "text/x-c++": "c++ cc cpp cxx",
    "text/x-c-header": "h hpp",
    "text/x-dockerfile": "dockerfile",
    "text/x-go": "go",
    "text/x-java": "java",
    "text/x-kotlin": "kt",
    "text/x-perl": "pl",
    "text/x-php": "php",
    "text/x-python": "py",
    "text/x-ruby": "rb",
    "text/x-rust": "rs",
    "text/x-scala": "scala",
    "text/x-shellscript": "bash fish sh zsh",
    "text/x-swift": "swift",
    "text/yaml": "yaml yml",
    "video/mp4": "mp4",
    "video/quicktime": "mov",
    "video/webm": "webm",
    "video/x-flv": "flv",
    "video/x-ms-wmv": "wmv",
    "video/x-msvideo": "avi",
}
"""Types that the `weed` program adds at its start; they override the machine's. The table belongs to the pages of
another command, but holds for all commands of the program. Source: weed/admin/dash/file_mime.go."""
GLOB_FILES = (Path("/usr/local/share/mime/globs2"), Path("/usr/share/mime/globs2"))
"""The first readable file is used; the type files are then not read."""
TYPE_FILES = tuple(
    Path(name)
    for name in (
        "/etc/mime.types",
        "/etc/apache2/mime.types",
        "/etc/apache/mime.types",
        "/etc/httpd/conf/mime.types",
    )
)


_BLANKS = re.compile("[ \t\v\f\r]+")


class MimeTypes:
    """Types by extension: the exact spelling first, then without regard to case."""

    def __init__(self, glob_files: Sequence[Path] = (), type_files: Sequence[Path] = ()) -> None:
        self._exact = dict(_builtin())
        self._lower = dict(self._exact)
        self._add_those_of_the_machine(glob_files, type_files)
        for mime, extensions in PROGRAM_TYPES.items():
            for extension in extensions.split():
                self._add(f".{extension}", mime)

    def _add_those_of_the_machine(self, glob_files: Sequence[Path], type_files: Sequence[Path]) -> None:
        globs = next((text for text in map(_read, glob_files) if text is not None), None)
        if globs is not None:
            for extension, mime in _parse_globs(globs):
                if extension not in self._exact:
                    self._add(extension, mime)
            return
        for path in type_files:
            for extension, mime in _parse_type_file(_read(path) or ""):
                self._add(extension, mime)

    @property
    def extensions(self) -> frozenset[str]:
        """The extensions that have a type, with their dots and in their exact spelling."""
        return frozenset(self._exact)

    def of_extension(self, extension: str) -> str:
        """The type for `extension` (with its dot; wire text), with a charset for text; "" for an unknown extension."""
        return self._exact.get(extension) or self._lower.get(extension.lower(), "")

    def _add(self, extension: str, mime: str) -> None:
        try:
            _, parameters = parse_media_type(mime)
        except BadMediaType:
            return
        if mime.startswith("text/") and not parameters.get("charset"):
            mime = format_media_type(mime.partition(";")[0].strip(), {**parameters, "charset": "utf-8"})
        self._exact[extension] = mime
        self._lower[extension.lower()] = mime


@cache
def machine_mime_types() -> MimeTypes:
    """The types of this machine, read from its files once."""
    return MimeTypes(GLOB_FILES, TYPE_FILES)


def mime_of_extension(extension: str) -> str:
    """As `MimeTypes.of_extension`, for this machine."""
    return machine_mime_types().of_extension(extension)


def _builtin() -> Iterator[tuple[str, str]]:
    for mime, extensions in _TEXT_TYPES.items():
        yield from ((f".{extension}", f"{mime}; charset=utf-8") for extension in extensions.split())
    for mime, extensions in _OTHER_TYPES.items():
        yield from ((f".{extension}", mime) for extension in extensions.split())


def _read(path: Path) -> str | None:
    try:
        return path.read_text("latin-1")
    except OSError:
        return None


def _parse_globs(text: str) -> Iterator[tuple[str, str]]:
    """Parses lines ``weight:type:*.ext[:...]``, the greatest weight first. Patterns that are more than an extension are
    skipped.
    """
    for line in text.split("\n"):
        fields = line.removesuffix("\r").split(":")
        if len(fields) < 3 or line.startswith(("#", ":")) or not fields[2].startswith("*.") or len(fields[2]) < 3:
            continue
        extension = fields[2][1:]
        if not set(extension) & set("?*["):
            yield extension, fields[1]


def _parse_type_file(text: str) -> Iterator[tuple[str, str]]:
    """Parses lines ``type ext ext …``; `#` begins a comment."""
    for line in text.split("\n"):
        mime, *extensions = _BLANKS.split(line.strip(" \t\v\f\r"))
        if mime.startswith("#"):
            continue
        for extension in extensions:
            if extension.startswith("#"):
                break
            yield f".{extension}", mime
