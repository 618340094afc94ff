"""Types and compression by file name, from Go and from the native handlers: all extensions that either could know. Both
read the MIME types of the test's machine. Slow: two Go processes are started. Skipped without `weed`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from harness.implementations import weed_program

from native_handlers.content import mime_types
from native_handlers.http_model.media_type import format_media_type

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(weed_program() is None, reason="no weed program: WEED_BINARY or PATH"),
]

CONTENT = b"a line that gets smaller\n" * 100
BINARY = b"\0\1" * 1_000
PROGRAM_EXTENSIONS = sorted(
    f".{extension}" for extensions in mime_types.PROGRAM_TYPES.values() for extension in extensions.split()
)
"""Extensions to which the program itself gives a type."""
FORM = {"Content-Type": "multipart/form-data; boundary=x"}


def extensions_of_all():
    """All extensions that the program, the library or this machine knows: some hundreds or thousands."""
    found = set(mime_types.machine_mime_types().extensions)
    for path in (*mime_types.GLOB_FILES, *mime_types.TYPE_FILES):
        found |= extensions_in(path)
    return sorted(found)


def extensions_in(path: Path):
    try:
        text = path.read_text("utf-8", "replace")
    except OSError:
        return set()
    return {f".{word.rpartition('*.')[2]}" for word in text.replace(":", " ").split() if word.isascii()}


def part(name, content):
    """A form with one file. Its type must be found by its name."""
    disposition = format_media_type("form-data", {"name": "file", "filename": name})
    head = f"--x\r\nContent-Disposition: {disposition}\r\nContent-Type: application/octet-stream\r\n\r\n"
    return head.encode("latin-1") + content + b"\r\n--x--\r\n"


def shown(answer):
    status, headers, _body = answer
    return status, {name: headers.get(name) for name in ("Content-Type", "Content-Encoding", "Content-Disposition")}


def differing(pair, names, upload):
    """The answers of Go and of the native server to a read of each, where they differ."""
    found = {}
    for name in names:
        fid = pair.new_fid()
        upload(fid, name)
        for asked in ({"Accept-Encoding": "gzip"}, {}):
            theirs, ours = pair.both("GET", fid, asked)
            if shown(theirs) != shown(ours):
                found[name, bool(asked)] = shown(theirs), shown(ours)
    return found


def test_each_extension_is_of_one_type_and_compressed_or_not(pair):
    def upload(fid, name):
        pair.both("POST", fid, FORM, part(name, CONTENT))

    assert differing(pair, [f"a{extension}" for extension in extensions_of_all()], upload) == {}


def test_what_does_not_look_like_text(pair):
    def upload(fid, name):
        pair.both("POST", fid, FORM, part(name, BINARY))

    assert differing(pair, [f"a{extension}" for extension in PROGRAM_EXTENSIONS], upload) == {}


def test_names_of_odd_spelling_and_raw_uploads(pair):
    names = [
        f"a{spelled}"
        for extension in PROGRAM_EXTENSIONS
        for spelled in (extension.upper(), extension.title(), f".x{extension}")
    ]

    def upload(fid, name):
        pair.both("PUT", fid, {"Content-Disposition": f'attachment; filename="{name}"'}, CONTENT)

    assert differing(pair, [*names, ".yaml", "yaml", "a.yaml.", "a.yaml.gz"], upload) == {}


def test_the_name_in_the_path_of_a_read(pair):
    fid = pair.new_fid()
    pair.both("PUT", fid, {}, CONTENT)
    for extension in PROGRAM_EXTENSIONS:
        target = fid.replace(",", "/") + f"/name{extension}"
        theirs, ours = pair.both("GET", target)
        assert shown(theirs) == shown(ours), target
