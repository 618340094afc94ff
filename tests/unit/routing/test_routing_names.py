"""A route's name is spelled in the registry and in its handler's row, and nowhere else in the source. Facts of a route
are fields of its `Route`, so a new route, or another rule for one, is one edit.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

import pytest
from support.source_tree import ROOT, facts_of, read_facts, sources, text_of

from native_handlers.pb.methods import VOLUME_SERVER_METHODS
from supervisor.routing.registry import ROUTES_BY_NAME, UNKNOWN_RPC

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = {*ROUTES_BY_NAME, UNKNOWN_RPC.name}
DOTTED = re.compile(r"(?<![\w.])(?:http|grpc)(?:\.\w+)+")
CANDIDATE = re.compile(
    rf"""(?<![\w.])(?:{"|".join(map(re.escape, sorted(NAMES)))})\b"""
    rf"""|["'](?:{"|".join(sorted(VOLUME_SERVER_METHODS))})["']"""
)
"""A mark of each text with a name. Most files have none, and need not be parsed."""

WHERE_NAMES_BELONG = {
    "supervisor/routing/registry.py",
    "native_handlers/http/handlers.py",
    "native_handlers/grpc/handlers.py",
}
EXCEPTIONS = {
    ("native_handlers/grpc/copy_follow.py", "Ping"): "the log says which RPC another server lacks",
    ("native_handlers/grpc/copy_follow.py", "VolumeTailSender"): "the log says which RPC another server lacks",
    ("supervisor/cluster/relay_rewrite.py", "VolumeMarkReadonly"): "an RPC of the master, which has that name too",
}


def names_in(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of each route that a literal of `source` spells: `http.…` or `grpc.…` anywhere in it, or an RPC's
    name as the whole of it. Docstrings are none, nor is the name of a type for `cast`.
    """
    return _names_among(read_facts(source).texts)


def _names_among(texts: list[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    for line, text in texts:
        found = {name for name in DOTTED.findall(text) if name in NAMES}
        yield from ((line, name) for name in found | ({text} & set(VOLUME_SERVER_METHODS)))


@cache
def spelled_names() -> list[tuple[str, int, str]]:
    found: list[tuple[str, int, str]] = []
    for path in sources():
        file = str(path.relative_to(ROOT))
        if file not in WHERE_NAMES_BELONG and CANDIDATE.search(text_of(path)):
            found += ((file, line, name) for line, name in _names_among(facts_of(path).texts))
    return found


@pytest.mark.slow
def test_names_are_spelled_in_the_registry_and_in_handlers_rows_alone():
    """Slow: reads the whole source."""
    wrong = [f"{file}:{line}: {name}" for file, line, name in spelled_names() if (file, name) not in EXCEPTIONS]
    assert not wrong, "read a field of the Route instead:\n" + "\n".join(wrong)


@pytest.mark.slow
def test_each_exception_is_needed():
    """Slow: reads the whole source."""
    assert {(file, name) for file, _, name in spelled_names()} >= set(EXCEPTIONS)


@pytest.mark.parametrize(
    "source",
    [
        'LONG = {"Ping"}',
        'handlers["Ping"]',
        'if route.name == "grpc.Ping": pass',
        'text = f"grpc.Ping is {state}"',
        'PREFIX = b"grpc.Ping"',
        'getattr(client, "Ping")',
    ],
)
def test_a_name_is_found(source):
    assert CANDIDATE.search(source)
    assert list(names_in(source)) == [(1, "grpc.Ping" if "grpc" in source else "Ping")]


@pytest.mark.parametrize(
    "source",
    ['"""As grpc.Ping."""', "client.Ping", '# "Ping"', '"a Ping"', '"grpc.Pinging"', 'cast("Ping", x)', '"xhttp.read"'],
)
def test_other_text_is_no_name(source):
    assert list(names_in(f"x = {source}" if source.startswith('"') and "As" not in source else source)) == []
