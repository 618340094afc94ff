"""The texts of -h: one per command, made from the flag tables."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from supervisor.config.flags import TOOL_FLAGS, Flag, Group, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

COMMANDS = {
    "volume": "start a volume server (also without this word)",
    "quickstart": "start a native volume server with a small master of its own, to try things out",
    "master": "start that small master alone; production uses `weed master`",
    "routes": "show or validate the routing table",
    "explain": "say which engine would answer a request, and why",
    "check": "examine the volumes in directories without changing them",
    "fix": "make the indexes of volumes anew out of their records; no server may be running",
    "compact": "give back the space of what was deleted; no server may be running",
    "export": "list the files in volumes, or write them to a tar file",
    "ec-verify": "verify erasure-coded shards by each other, and say which of them are wrong",
    "version": "print versions, the backend's too where there is one",
}
_SYNTAX = (
    "Flags are written -name=value, -name value or with two dashes; a boolean is -name or -name=false. What is not on"
    " the command line is taken from the environment (WEED_NAME for the flags of weed; where another variable is read"
    " it is named below), then from the file of -options."
)
_INDENT = " " * 8
_WIDTH = 110


def volume_usage(table: Mapping[str, Flag]) -> str:
    """The text for the whole program: its commands, then every flag of `volume`."""
    commands = [f"  {name:<12}{meaning}" for name, meaning in COMMANDS.items()]
    lines = [
        "Usage: weed-volume-py [COMMAND] [flags]",
        "",
        "A drop-in SeaweedFS volume server that can also supervise the Go one.",
        "",
        "Commands:",
        *commands,
        "",
        *_wrapped(_SYNTAX, ""),
        *_flag_lines(table),
    ]
    return "\n".join(lines) + "\n"


def command_usage(command: str, table: Mapping[str, Flag]) -> str:
    """The usage text of one of the smaller commands."""
    words = " DIR..." if command in TOOL_FLAGS else ""
    lines = [f"Usage: weed-volume-py {command} [flags]{words}", "", f"{COMMANDS[command]}.", *_flag_lines(table)]
    return "\n".join(lines) + "\n"


def _flag_lines(table: Mapping[str, Flag]) -> Iterator[str]:
    for group in Group:
        rows = [row for row in table.values() if row.group is group]
        if rows:
            yield ""
            yield f"{group.value}:"
        for row in rows:
            yield f"  -{row.name} {row.kind.value}".rstrip()
            yield from _wrapped(_meaning(row), _INDENT)


def _meaning(row: Flag) -> str:
    extra = []
    if row.choices and row.kind is Kind.TEXT:
        extra.append(f"one of {', '.join(row.choices)}")
    if row.default not in {"", "0", "false"}:
        extra.append(f"default {row.default}")
    if row.environment and not row.is_upstream:
        extra.append(f"also {' or '.join(row.environment)}")
    return f"{row.meaning} ({'; '.join(extra)})" if extra else row.meaning


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
    )
