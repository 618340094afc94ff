"""Which MIME type a file name extension stands for.

Upstream asks its library, which knows the types below and adds those of the machine, so two servers with different
machines may differ; the same files are read here, in the same order. Source: Go's mime.TypeByExtension.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from native_handlers.http.errors import BadMediaType
from native_handlers.http.media_type import format_media_type, parse_media_type

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
GLOB_FILES = (Path("/usr/local/share/mime/globs2"), Path("/usr/share/mime/globs2"))
"""The first that can be read is used, and the type files are not."""
TYPE_FILES = tuple(
    Path(name)
    for name in (
        "/etc/mime.types",
        "/etc/apache2/mime.types",
        "/etc/apache/mime.types",
        "/etc/httpd/conf/mime.types",
    )
)


class MimeTypes:
    """Types by extension: first by the exact spelling, then without regard to case."""

    def __init__(self, glob_files: Sequence[Path] = (), type_files: Sequence[Path] = ()) -> None:
        self._exact = dict(_builtin())
        self._lower = dict(self._exact)
        globs = next((text for text in map(_read, glob_files) if text is not None), None)
        if globs is not None:
            for extension, mime in _parse_globs(globs):
                if extension not in self._exact:
                    self._add(extension, mime)
            return
        for path in type_files:
            for extension, mime in _parse_type_file(_read(path) or ""):
                self._add(extension, mime)

    def of_extension(self, extension: str) -> str:
        """The type for `extension` (with its dot; wire text), with a charset for text; "" when it is not known."""
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
    """The types of this machine, read once."""
    return MimeTypes(GLOB_FILES, TYPE_FILES)


def mime_of_extension(extension: str) -> str:
    """As `MimeTypes.of_extension`, of this machine."""
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
    """Lines ``weight:type:*.ext[:...]``, heaviest first; patterns that are more than an extension are passed over."""
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) < 3 or line.startswith(("#", ":")) or not fields[2].startswith("*.") or len(fields[2]) < 3:
            continue
        extension = fields[2][1:]
        if not set(extension) & set("?*["):
            yield extension, fields[1]


def _parse_type_file(text: str) -> Iterator[tuple[str, str]]:
    """Lines ``type ext ext …``, `#` begins a comment."""
    for line in text.splitlines():
        mime, *extensions = line.split() or [""]
        if mime.startswith("#"):
            continue
        for extension in extensions:
            if extension.startswith("#"):
                break
            yield f".{extension}", mime
