"""The subcommands `routes` and `explain`: what they print and what they exit with."""

from __future__ import annotations

import json

import pytest

from supervisor.cli.explain import run_explain, run_routes
from supervisor.routing import native
from supervisor.routing.registry import CONTROL_PHASE, ROUTES

SERVED = frozenset(route.name for route in ROUTES if 0 < route.phase <= CONTROL_PHASE) | {"http.read", "http.delete"}


@pytest.fixture(autouse=True)
def fixed_surroundings(monkeypatch):
    """Handlers change with the code, so these tests set which routes have one. No variable of the caller's shell
    counts.
    """
    monkeypatch.setattr(native, "native_names", lambda: SERVED)
    for variable in ("VOLUME_SERVER_PY_MODE", "VOLUME_SERVER_RUST_MODE", "VOLUME_SERVER_PY_ROUTES"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def explain(capsys):
    def explain(*argv):
        assert run_explain(argv) == 0
        printed = capsys.readouterr()
        assert not printed.err
        return dict(line.split(maxsplit=1) for line in printed.out.splitlines())

    return explain


@pytest.fixture
def table(tmp_path):
    file = tmp_path / "table.yaml"
    file.write_text("phase: 1\nroutes:\n  http.status: forward\n")
    return file


def test_explain_a_read(explain):
    told = explain("GET", "/3,01637037d6?width=5", "-mode=proxy")
    assert told == {
        "route": "http.read: read an object",
        "matches": "GET and HEAD, any other path (admin listener)",
        "access": "volume read (path)",
        "volume": "3",
        "state": "forward",
        "engine": "backend",
        "why": "proxy mode forwards it",
    }


def test_explain_on_the_public_listener(explain):
    told = explain("DELETE", "/3,01637037d6", "--public")
    assert told["route"].startswith("http.public.other")
    assert told["volume"] == "none"
    assert told["engine"] == "native"


def test_explain_names_the_line_that_decides(explain, table):
    assert explain("GET", "/status", "-routes", str(table))["why"] == f"{table}:3 says http.status: forward"


def test_explain_takes_the_table_from_the_environment(explain, table, monkeypatch):
    monkeypatch.setenv("VOLUME_SERVER_PY_ROUTES", str(table))
    assert explain("GET", "/status")["engine"] == "backend"
    monkeypatch.setenv("VOLUME_SERVER_RUST_MODE", "native")
    assert explain("GET", "/status")["engine"] == "native"


def test_explain_a_path_without_a_volume(explain):
    assert explain("GET", "/nothing")["volume"] == "no volume id in the path; the handler will say so"


@pytest.mark.parametrize("name", ["grpc.BatchDelete", "BatchDelete", "/volume_server_pb.VolumeServer/BatchDelete"])
def test_explain_an_rpc_by_name_or_path(explain, name):
    told = explain(name, "-mode", "native")
    assert told["route"] == "grpc.BatchDelete: delete many objects"
    assert told["volume"] == "the request's file_ids"
    assert (told["state"], told["engine"]) == ("absent", "none")
    assert told["why"] == "native mode serves it natively, but it has no native handler yet"


def test_explain_reflection(explain):
    assert explain("grpc.reflection", "-mode=proxy")["engine"] == "native"


def test_explain_exec_mode_says_that_nothing_is_routed(explain):
    assert explain("GET", "/", "-mode=exec")["note"] == "in exec mode this process is replaced by the backend"


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        ([], "required"),
        (["grpc.Pong"], "'grpc.Pong' is no RPC"),
        (["http.read"], "'http.read' is no RPC"),
        (["GET"], "'GET' is no RPC"),
        (["GET", "/", "-mode=fast"], "'fast' is not a mode; expected one of exec, proxy, mixed, native"),
        (["GET", "/", "-nonsense"], "-nonsense"),
    ],
)
def test_explain_refuses_what_it_does_not_understand(capsys, argv, complaint):
    assert run_explain(argv) == 2
    printed = capsys.readouterr()
    assert complaint in printed.err
    assert not printed.out


def test_a_mode_in_the_environment_that_is_none(capsys, monkeypatch):
    monkeypatch.setenv("VOLUME_SERVER_PY_MODE", "fast")
    assert run_routes(["show"]) == 2
    assert "'fast' is not a mode" in capsys.readouterr().err


def test_help_is_no_error(capsys):
    assert run_routes(["-h"]) == 0
    assert "show|validate" in capsys.readouterr().out


def test_show_has_a_line_for_every_route_and_a_summary(capsys, table):
    assert run_routes(["show", "-routes", str(table)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[: len(ROUTES)]] == [route.name for route in ROUTES]
    status = lines[0].split()
    assert status[:2] == ["http.status", "forward"]
    native_count = sum(route.phase <= 1 for route in ROUTES) - 1
    assert lines[-1] == f"phase 1 of {table}: {native_count} native, {len(ROUTES) - native_count} forward"


def test_show_as_json_tells_absent_routes(capsys):
    assert run_routes(["show", "--json", "--mode=native"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["phase"], shown["source"]) == (4, None)
    rows = {row["name"]: row for row in shown["routes"]}
    assert len(rows) == len(ROUTES)
    assert rows["http.write"]["state"] == "absent"
    assert rows["http.read"] == {
        "name": "http.read",
        "state": "native",
        "access": "volume_read",
        "volume_id_in": "path",
        "native_from_phase": 2,
        "answers": "GET and HEAD, any other path",
        "listener": "admin",
        "why": "native mode serves it natively",
    }


def test_validate_tells_what_is_forwarded(capsys, table):
    assert run_routes(["validate", str(table)]) == 0
    forwarded = sum(route.phase > 1 for route in ROUTES) + 1
    assert capsys.readouterr().out == f"{table}: valid; {forwarded} of {len(ROUTES)} routes are forwarded\n"


def test_validate_prints_every_problem_and_fails(capsys, table):
    table.write_text("phase: 9\nroutes:\n  http.raed: native\n")
    assert run_routes(["validate", str(table)]) == 1
    printed = capsys.readouterr()
    assert not printed.out
    assert [line.split(": ")[0] for line in printed.err.splitlines()] == [f"{table}:1", f"{table}:3"]


def test_validate_without_a_file_checks_the_shipped_table(capsys):
    assert run_routes(["validate"]) == 0
    assert "valid" in capsys.readouterr().out
