"""The forms of a log record: a glog line, as upstream's operators know it, or a JSON object.

A record from the backend's output has the backend's name in `record.backend`. Its text then begins with the source file
that the backend printed. Source of both forms: weed/glog/glog.go (formatHeader), weed/glog/glog_json.go.
"""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from typing import ClassVar

_BACKEND_SOURCE = re.compile(r"([\w.-]+\.(?:go|py)):(\d+)\]? (.*)", re.DOTALL)
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}
CONTINUATION = "    "


def source_of(record: logging.LogRecord) -> tuple[str, int, str]:
    """File, line and message. For a line of the backend, the file and line that the backend printed."""
    message = record.getMessage()
    if backend_of(record) is None:
        return record.filename, record.lineno, message
    found = _BACKEND_SOURCE.fullmatch(message)
    return (found[1], int(found[2]), found[3]) if found else ("", 0, message)


def backend_of(record: logging.LogRecord) -> str | None:
    """The name of the backend whose output the record is; None for this process's own records."""
    name = getattr(record, "backend", None)
    return str(name) if name is not None else None


class GlogFormatter(logging.Formatter):
    """`I1123 02:13:30.669495 live.py:98 text`, in local time. Debug lines are I lines, as upstream's -v lines are.

    Later lines of a record (stacks, texts with line breaks) are indented, and control characters are escaped. So no
    text from outside can look like a record of its own.
    """

    _LETTERS: ClassVar = {logging.WARNING: "W", logging.ERROR: "E", logging.CRITICAL: "F"}

    def format(self, record: logging.LogRecord) -> str:
        letter = self._LETTERS.get(record.levelno, "I")
        when = datetime.fromtimestamp(record.created).astimezone()
        file, line, message = source_of(record)
        source = f"{file}:{line} " if file else ""
        backend = backend_of(record)
        if backend is not None:
            source = f"[{backend}] {source}"
        stack = stack_of(self, record)
        body = redact(f"{message}\n{stack}" if stack else message).translate(_CONTROL)
        indented = body.rstrip("\n").replace("\n", f"\n{CONTINUATION}")
        return f"{letter}{when:%m%d %H:%M:%S.%f} {source}{indented}"


class JsonFormatter(logging.Formatter):
    """One object a line: ts (UTC), level, file, line, msg; then backend or logger, and stack if there is one."""

    _LEVELS: ClassVar = {logging.CRITICAL: "FATAL"}

    def format(self, record: logging.LogRecord) -> str:
        file, line, message = source_of(record)
        fields: dict[str, object] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "level": self._LEVELS.get(record.levelno, record.levelname),
            "file": file,
            "line": line,
            "msg": redact(message),
        }
        backend = backend_of(record)
        fields.update({"backend": backend} if backend is not None else {"logger": record.name})
        stack = stack_of(self, record)
        if stack:
            fields["stack"] = redact(stack)
        return json.dumps(fields)


def stack_of(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """The exception and the stack of a record as text; empty where it has none."""
    parts = []
    if record.exc_info and record.exc_info[0] is not None:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return "\n".join(parts)


# ---- Takes secrets out of text that is about to be logged. Pure.
#
# It searches for tokens where upstream accepts them (`?jwt=`, `Authorization`, the cookie AT), for texts in the form of
# a JSON web token, and for values after names of secrets. It may hide a harmless word, so that no usable token is
# logged. Source of the places: weed/security/jwt.go (GetJwt).

HIDDEN = "<redacted>"

_VALUE = r"""[^\s"'&;,)\]}>]+"""
_NAMED = r"secret|password|passwd|private[._]key|(?:signing|read)[._]key"
_SECRETS = re.compile(
    rf"""
      (?P<query>    (?i: (?:\b|%3F|%26)jwt(?:=|%3D)) ) {_VALUE}
    | (?P<header>   (?i: \bauthorization["']?\s*[:=,]\s*["']? (?:bearer\s+|basic\s+)?) ) {_VALUE}
    | (?P<bearer>   (?i: \bbearer\s+) ) {_VALUE}
    | (?P<cookie>   \bAT= ) {_VALUE}
    | (?P<token>    ) \beyJ[\w-]{{4,}}\.[\w-]+(?:\.[\w-]*)?
    | (?P<named>    (?i: \b(?:{_NAMED})[\w.]*["']?\s*[:=]\s*["']?) ) {_VALUE}
    """,
    re.VERBOSE,
)


def redact(text: str) -> str:
    """`text` with HIDDEN in place of every secret. The text before a secret (`jwt=`) stays."""
    return _SECRETS.sub(lambda found: found[found.lastgroup or 0] + HIDDEN, text)
