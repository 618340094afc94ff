"""Routing over arbitrary input: every request has one route, and no accepted table splits the volumes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from native_handlers.http_model.message import Listener
from native_handlers.http_model.target import RequestTarget
from supervisor.routing.decision import Engine, decide
from supervisor.routing.errors import TableError
from supervisor.routing.match import match_grpc, match_http
from supervisor.routing.registry import ROUTES, ROUTES_BY_NAME, AccessKind, Protocol
from supervisor.routing.states import State
from supervisor.routing.table import load_table
from supervisor.routing.table_file import parse_table

METHODS = st.one_of(
    st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT"]), st.text(max_size=8)
)
PIECES = st.sampled_from(
    [
        "/",
        "//",
        ".",
        "..",
        "%2e",
        "%2F",
        "%",
        "%73",
        "status",
        "stats",
        "seaweedfsstatic",
        "ui",
        "index.html",
        "3,01",
        "é",
    ]
)
PATHS = st.one_of(st.lists(PIECES, max_size=8).map("".join), st.text(st.characters(max_codepoint=255), max_size=40))
FIXED = ["/status", "/healthz", "/readyz", "/ui/index.html", "/favicon.ico", "/seaweedfsstatic/x"]


@given(listener=st.sampled_from(Listener), method=METHODS, path=PATHS)
def test_every_request_has_a_route_of_its_listener(listener, method, path):
    route = match_http(listener, method, path)
    assert route.protocol is Protocol.HTTP
    assert route.listener is listener


@given(listener=st.sampled_from(Listener), method=METHODS, path=PATHS)
def test_only_the_writing_methods_on_the_admin_listener_write(listener, method, path):
    if match_http(listener, method, path).access.kind is AccessKind.VOLUME_WRITE:
        assert listener is Listener.ADMIN
        assert method in {"POST", "PUT", "DELETE"}


@given(path=st.sampled_from(FIXED), at=st.integers(0, 30), method=METHODS)
def test_an_escaped_letter_changes_nothing(path, at, method):
    at %= len(path)
    escaped = path if path[at] == "/" else f"{path[:at]}%{ord(path[at]):02x}{path[at + 1 :]}"
    assert match_http(Listener.ADMIN, method, escaped) is match_http(Listener.ADMIN, method, path)


@given(path=st.sampled_from(FIXED[:-1]), at=st.integers(0, 30), extra=st.sampled_from(["/", "/.", "x", "%2f", " "]))
def test_anything_more_in_a_fixed_path_is_another_path(path, at, extra):
    at %= len(path) + 1
    changed = path[:at] + extra + path[at:]
    assert match_http(Listener.ADMIN, "PUT", changed).name == "http.write"


@given(path=st.text(max_size=60))
def test_rpc_paths_match_exactly_or_not_at_all(path):
    route = match_grpc(path)
    assert route is None or path in route.answers


def volume_of(path):
    return RequestTarget.parse(path).volume_id


@given(
    volume_id=st.integers(0, 2**64 - 1),
    zeros=st.integers(0, 30),
    rest=st.sampled_from([",01ab", "/01ab", "/01ab/n", ""]),
)
def test_volume_ids_are_found_in_every_form_and_wrap_at_32_bits(volume_id, zeros, rest):
    assert volume_of(f"/{'0' * zeros}{volume_id}{rest}") == volume_id % 2**32


@given(path=st.one_of(PATHS, st.text("0123456789,/._-+x\xb2", max_size=30)))
def test_a_found_volume_id_is_written_in_the_path(path):
    volume_id = volume_of(path)
    if volume_id is not None:
        assert volume_id in {int(digits) % 2**32 for digits in re.findall(r"[0-9]+", path)}


@given(text=st.one_of(st.text(max_size=200), st.lists(st.sampled_from(
    ["phase: ", "routes:", "\n", "  ", "http.read", ": ", "native", "forward", "1", "[", "{", "&a", "*a", "!!x ", "---"]
), max_size=20).map("".join)))  # fmt: skip
def test_no_text_breaks_the_parser(text):
    parsed = parse_table(text, Path("table.yaml"))
    assert parsed.problems or parsed.phase is not None


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("routes") / "table.yaml"


@given(
    phase=st.integers(0, 4),
    states=st.dictionaries(
        st.sampled_from([*ROUTES_BY_NAME, "http.*", "grpc.*", "grpc.V*"]),
        st.sampled_from(["forward", "native"]),
        max_size=6,
    ),
    unserved=st.sets(st.sampled_from([*ROUTES_BY_NAME]), max_size=3),
    has_backend=st.booleans(),
)
def test_no_accepted_table_breaks_a_rule(file, phase, states, unserved, has_backend):
    lines = [f'  "{name}": {state}' for name, state in states.items()]
    file.write_text("\n".join([f"phase: {phase}", "routes:", *lines]))
    served = frozenset(ROUTES_BY_NAME) - unserved
    try:
        table = load_table(file, native_names=served, has_backend=has_backend)
    except TableError:
        return
    decisions = {route.name: decide(route, None, table) for route in ROUTES}
    assert has_backend or not table.forwards_anything
    assert decisions["grpc.reflection"].engine is Engine.NATIVE
    data = {decisions[route.name].engine for route in ROUTES if route.is_data}
    assert table.shares_volumes == (Engine.NATIVE in data and State.FORWARD in table.states.values())
    if table.shares_volumes:
        assert decisions["http.status"].engine is Engine.NATIVE
    else:
        assert len(data) == 1
    for name, decision in decisions.items():
        assert decision.is_absent == (decision.engine is Engine.NATIVE and name in unserved - {"grpc.reflection"})
    for name, state in states.items():
        if name in ROUTES_BY_NAME:
            assert table.states[name].value == state
