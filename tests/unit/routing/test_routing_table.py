"""Loading and checking tables: which are accepted, the text of each refusal, and its position."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from supervisor.routing.errors import TableError
from supervisor.routing.native import native_names
from supervisor.routing.registry import CONTROL_PHASE, MAX_PHASE, ROUTES, ROUTES_BY_NAME
from supervisor.routing.table import (
    MAX_TABLE_BYTES,
    State,
    default_table_path,
    load_table,
    table_forwarding_all,
    table_native,
)

EVERY_NAME = frozenset(ROUTES_BY_NAME)
CONTROL_NAMES = frozenset(route.name for route in ROUTES if 0 < route.phase <= CONTROL_PHASE)
DATA_NAMES = frozenset(route.name for route in ROUTES if route.is_data)


@pytest.fixture
def load(tmp_path):
    """Loads the given text; every route has a native handler unless told otherwise."""

    def load(text, native_names=EVERY_NAME, **options):
        file = tmp_path / "table.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_table(file, native_names=native_names, **options)

    return load


@pytest.fixture
def refuse(load, tmp_path):
    """Loads a text that must be refused. Returns its problems as `line: text; suggestion`, without the file name."""

    def refuse(text, **options):
        with pytest.raises(TableError) as caught:
            load(text, **options)
        prefix = str(tmp_path / "table.yaml")
        lines = [str(problem) for problem in caught.value.problems]
        assert str(caught.value) == "\n".join(lines)
        assert all(line.startswith(prefix + ":") for line in lines)
        return [line.removeprefix(prefix + ":").strip() for line in lines]

    return refuse


def native_of(table):
    return {name for name, state in table.states.items() if state is State.NATIVE}


def test_phase_0_forwards_all_but_reflection(load):
    table = load("phase: 0")
    assert native_of(table) == {"grpc.reflection"}
    assert table.forwards_anything
    assert not table.is_data_native


def test_phase_1_serves_the_control_plane(load):
    table = load("phase: 1\nroutes:\n")
    assert native_of(table) == CONTROL_NAMES | {"grpc.reflection"}
    assert not table.is_data_native
    assert not table.absent


@pytest.mark.parametrize("phase", [3, 4])
def test_later_phases_forward_nothing_when_all_handlers_are_there(load, phase):
    table = load(f"phase: {phase}", has_backend=False)
    assert native_of(table) == EVERY_NAME
    assert not table.forwards_anything
    assert table.is_data_native


def test_an_override_wins_over_the_phase_and_says_its_line(load, tmp_path):
    table = load("phase: 1\nroutes:\n  http.status: forward\n")
    assert table.state_of(ROUTES_BY_NAME["http.status"]) is State.FORWARD
    assert table.reasons["http.status"] == f"{tmp_path}/table.yaml:3 says http.status: forward"
    assert table.reasons["http.healthz"] == f"phase 1 of {tmp_path}/table.yaml serves it natively"
    assert "native from phase 2 on" in table.reasons["http.read"]


def test_a_pattern_covers_routes_and_a_name_wins_over_it(load, tmp_path):
    table = load('phase: 1\nroutes:\n  http.healthz: native\n  "http.*": forward\n')
    assert table.states["http.healthz"] is State.NATIVE
    assert table.states["http.public.favicon"] is State.FORWARD
    assert table.reasons["http.ui"] == f"{tmp_path}/table.yaml:4 says http.*: forward"


def test_a_pattern_leaves_alone_what_is_always_native(load):
    table = load('phase: 1\nroutes:\n  "grpc.*": forward\n')
    assert table.states["grpc.reflection"] is State.NATIVE
    assert table.states["grpc.Ping"] is State.FORWARD


def test_the_shipped_table_is_valid_and_is_the_default():
    table = load_table(None, native_names=native_names())
    assert table.source == default_table_path()
    assert (table.phase, table.forwards_anything, table.absent) == (4, False, frozenset())
    assert load_table(default_table_path(), native_names=native_names()) == table


def test_an_installed_package_has_its_table_beside_the_module(tmp_path, monkeypatch):
    monkeypatch.setattr("supervisor.routing.table.__file__", str(tmp_path / "table.py"))
    (tmp_path / "routing_table.yaml").write_text("phase: 0")
    assert default_table_path() == tmp_path / "routing_table.yaml"


def test_the_modes_without_a_file():
    assert native_of(table_forwarding_all()) == {"grpc.reflection"}
    native = table_native(CONTROL_NAMES)
    assert not native.forwards_anything
    assert native.absent == DATA_NAMES


def test_phase_4_leaves_routes_without_handlers_absent(load):
    table = load("phase: 4", native_names=EVERY_NAME - {"grpc.Query", "grpc.VolumeCopy"})
    assert table.absent == {"grpc.Query", "grpc.VolumeCopy"}
    assert not table.forwards_anything


def test_below_phase_4_a_missing_handler_is_an_error(refuse):
    assert refuse("phase: 1", native_names=CONTROL_NAMES - {"http.ui"}) == [
        "phase 1 needs native handlers that are not there yet: http.ui; set these to forward, or forward nothing: "
        "with phase 4 they answer that they are absent"
    ]


def test_a_route_named_native_must_have_a_handler_in_any_phase(refuse):
    problems = refuse("phase: 4\nroutes:\n  grpc.Query: native", native_names=EVERY_NAME - {"grpc.Query"})
    assert problems == ["3: grpc.Query has no native handler; it can only be forwarded"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the file is empty; write at least `phase: 0`"),
        ("# nothing\n", "the file is empty; write at least `phase: 0`"),
        ("routes: {}", "1: there is no phase; write `phase:` with a number from 0 to 4"),
        ("phase: 5", "1: phase is '5'; expected a number from 0 to 4"),
        ("phase: -1", "1: phase is '-1'; expected a number from 0 to 4"),
        ("phase: 01", "1: phase is '01'; expected a number from 0 to 4"),
        ('phase: "1"', "1: phase is '1'; expected a number from 0 to 4"),
        ("phase: one", "1: phase is 'one'; expected a number from 0 to 4"),
        ("phase:", "1: phase is empty; expected a number from 0 to 4"),
        ("phase: [1]", "1: phase is a list or a mapping; expected a number from 0 to 4"),
        ("phase: 1\nphase: 1", "2: 'phase' is there twice, first in line 1; keep one"),
        ("phase: 0\nroute: {}", "2: unknown key 'route'; did you mean routes?"),
        ("phase: 0\nzebra: {}", "2: unknown key 'zebra'"),
        ("- phase", "1: the table must be `name: value` lines"),
        ("phase: 0\nroutes: [http.read]", "2: routes must be `name: value` lines"),
        ("phase: 0\nroutes:\n  [a]: native", "3: a name in routes must be plain text"),
        ("phase: 0\nroutes:\n  http.raed: forward", "3: there is no route 'http.raed'; did you mean http.read?"),
        ("phase: 0\nroutes:\n  Ping: forward", "3: there is no route 'Ping'; did you mean grpc.Ping?"),
        ("phase: 0\nroutes:\n  qqqqqqqq: forward", "3: there is no route 'qqqqqqqq'"),
        ("phase: 0\nroutes:\n  'htp.*': forward", "3: no route matches 'htp.*'; `routes show` lists their names"),
        ("phase: 0\nroutes:\n  http.ui: natve", "3: http.ui: 'natve' is not a state; did you mean native?"),
        ("phase: 0\nroutes:\n  http.ui: 7", "3: http.ui: '7' is not a state; expected forward or native"),
        ("phase: 0\nroutes:\n  http.ui:", "3: http.ui: empty is not a state; expected forward or native"),
        (
            "phase: 0\nroutes:\n  http.ui: {canary: 5}",
            "3: http.ui: a list or a mapping is not a state; expected forward or native",
        ),
        (
            "phase: 0\nroutes:\n  http.read: canary",
            "3: http.read: canary comes with shadowing (not available yet); use forward or native",
        ),
        (
            "phase: 0\nroutes:\n  http.ui: native\n\n  http.ui: native",
            "5: 'http.ui' is there twice, first in line 3; keep one",
        ),
        ("phase: 0\nroutes:\n  grpc.reflection: forward", "3: grpc.reflection is always native; remove the line"),
        (
            "phase: 0\nroutes:\n  'http.u*': native\n  'http.?i': forward",
            "4: 'http.?i' says forward and 'http.u*' in line 3 says native of http.ui; name the route itself or make "
            "the patterns disjoint",
        ),
    ],
)
def test_each_mistake_is_named_with_its_line(refuse, text, problem):
    problems = refuse(text)
    assert problem in problems
    # A name that is not understood may also leave the patterns' advice fuzzy, but never a second complaint elsewhere.
    assert {line.partition(":")[0] for line in problems} == {problem.partition(":")[0]}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("phase: 1\n bad: x", "2"),
        ("phase: [", "1"),
        ("phase: 1\n---\nphase: 2", "2"),
        ("phase: *x", "1"),
        (b"a\n\xff", "2"),
    ],
)
def test_what_is_not_yaml_is_one_problem_with_its_line(refuse, text, line):
    problems = refuse(text)
    assert len(problems) == 1
    assert problems[0].startswith(f"{line}: ")


@pytest.mark.slow
def test_hostile_yaml_is_refused_and_not_executed(refuse):
    """Slow: the parser goes down five thousand levels."""
    assert "not YAML" in refuse("[" * 5000)[0]
    assert "not YAML" in refuse("phase: \x01")[0]
    assert refuse("phase: !!python/object/apply:os.abort []")
    assert refuse("a: &a [x]\n" + "\n".join(f"k{i}: [*a, *a]" for i in range(50)) + "\nphase: 0")


def test_a_huge_file_is_not_parsed(refuse):
    assert "is larger than" in refuse("#" * (MAX_TABLE_BYTES + 1))[0]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TableError, match=r"none\.yaml: cannot be read: No such file"):
        load_table(tmp_path / "none.yaml", native_names=EVERY_NAME)


def test_all_problems_come_at_once_in_the_order_of_lines(refuse):
    routes = ["http.ui: bogus", "http.raed: native", "http.read: shadow", "grpc.Ping: native"]
    problems = refuse(
        "\n  ".join(["phase: 1\nrouts: {}\nroutes:", *routes]), native_names=CONTROL_NAMES - {"grpc.Ping"}
    )
    assert [line.partition(":")[0] for line in problems] == ["2", "4", "5", "6", "7"]


def test_without_a_backend_nothing_may_be_forwarded(refuse):
    assert refuse("phase: 4\nroutes:\n  http.ui: forward", has_backend=False)[0] == (
        "3: http.ui would be forwarded, but there is no backend; name one with -backend, or use -mode=native "
        "(or phase: 4)"
    )


HTTP_NATIVE = 'phase: 2\nroutes:\n  "grpc.*": forward'


def test_both_engines_may_work_on_volumes_and_the_price_is_told(load):
    table = load(HTTP_NATIVE)
    assert table.shares_volumes
    warning, *_ = table.warnings
    assert "goes back and forth" in warning
    assert warning.startswith("http.read, http.write, http.delete and 1 more are native while ")


def test_routes_that_go_together_are_named(load):
    warnings = load(HTTP_NATIVE + "\n  http.read: forward").warnings
    assert warnings[1].startswith(
        "flip together: http.read, http.write, http.delete, http.public.read are used on the same volumes"
    )
    together = [text for text in load(HTTP_NATIVE).warnings if text.startswith("flip together: ")]
    assert together[0].startswith("flip together: http.delete, grpc.BatchDelete")
    assert together[1].startswith("flip together: http.read, http.public.read, grpc.VolumeEcShardRead")
    assert not [text for text in load("phase: 2").warnings if "flip together" in text]


def test_native_work_that_keeps_forwarded_requests_waiting_is_named(load):
    """Such work takes minutes, and not the milliseconds of a hand-over."""
    forwarded = "".join(f"\n  http.{name}: forward" for name in ("read", "write", "delete", "public.read"))
    warnings = load(f"phase: 3\nroutes:{forwarded}").warnings
    (warning,) = (text for text in warnings if "wait meanwhile" in text)
    for name in ("VacuumVolumeCompact", "VolumeEcShardsGenerate", "VolumeTierMoveDatToRemote", "VolumeCopy"):
        assert f"grpc.{name}" in warning
    assert not any(name in warning for name in ("Scrub", "CopyFile", "VolumeTailSender", "VacuumVolumeCommit"))
    assert any("a native vacuum of a volume fails" in text for text in warnings)
    assert not any("wait meanwhile" in text or "vacuum" in text for text in load(HTTP_NATIVE).warnings)


def test_a_table_with_one_engine_for_the_volumes_has_no_warning(load):
    assert load("phase: 1").warnings == []
    assert load("phase: 4").warnings == []
    assert not load("phase: 1").shares_volumes


@pytest.mark.parametrize(
    ("more", "text", "advice"),
    [
        ("http.status: forward", "does not know of the volumes that are native", "set http.status to native"),
        ("grpc.VacuumVolumeCommit: native", "must be in one state", "flip them together"),
    ],
)
def test_what_must_not_be_divided(refuse, more, text, advice):
    (problem,) = refuse(f"{HTTP_NATIVE}\n  {more}")
    assert problem.startswith("4: ") or more.startswith("grpc.Vacuum")
    assert text in problem
    assert problem.endswith(advice)


def test_control_routes_are_free_while_volumes_are_the_backends(load):
    for name in sorted(CONTROL_NAMES):
        assert load(f"phase: 1\nroutes:\n  {name}: forward").states[name] is State.FORWARD
        assert load(f"phase: 0\nroutes:\n  {name}: native").states[name] is State.NATIVE


def test_an_unreadable_mark_still_makes_a_problem(monkeypatch, refuse):
    import yaml  # noqa: PLC0415

    def explode(*_args, **_kwargs):
        raise yaml.MarkedYAMLError(problem="broken", context_mark=SimpleNamespace(line=6))

    monkeypatch.setattr("supervisor.routing.table_file.yaml.compose", explode)
    assert refuse("phase: 0") == ["7: not YAML: broken"]


def test_every_route_has_a_reason_in_every_preset(load):
    for phase in range(MAX_PHASE + 1):
        assert all(load(f"phase: {phase}").reasons.values())


VACUUM = {f"grpc.VacuumVolume{step}" for step in ("Compact", "Commit", "Cleanup")}


@pytest.mark.parametrize("phase", [2, 3])
def test_what_the_native_engine_cannot_do_yet_is_forwarded_in_the_phases_between(load, phase):
    missing = {"grpc.VacuumVolumeCommit", "grpc.Query", "grpc.VolumeTierMoveDatToRemote"}
    table = load(f"phase: {phase}", native_names=EVERY_NAME - missing)
    assert not table.absent
    held_back = missing | VACUUM if phase == 3 else set()
    assert set(table.held_back) == held_back
    assert all(table.states[name] is State.FORWARD for name in held_back)
    forwarded = {name for name, state in table.states.items() if state is State.FORWARD}
    assert forwarded == held_back | {route.name for route in ROUTES if route.phase > phase}
    said = [text for text in table.warnings if text.startswith("forwarded although phase 3 says native, until they")]
    assert len(said) == bool(held_back)


def test_phase_3_forwards_nothing_for_every_route_has_a_handler(load):
    names = native_names()
    table = load("phase: 3", native_names=names)
    assert native_of(table) == names | {"grpc.reflection"} == EVERY_NAME
    assert not table.held_back
    assert not table.absent
    assert not table.forwards_anything


def test_routes_of_erasure_coded_volumes_flip_like_others(load):
    table = load("phase: 1\nroutes:\n  grpc.VolumeEcShardsMount: native\n  grpc.DeleteCollection: native")
    assert table.shares_volumes
    assert table.states["grpc.VolumeEcShardsMount"] is State.NATIVE


@pytest.mark.parametrize(
    "more",
    ['"grpc.Vacuum*": forward', '"grpc.VolumeEc*": forward', "grpc.VolumeCopy: forward", "grpc.BatchDelete: forward"],
)
@pytest.mark.parametrize("phase", [2, 3])
def test_tables_that_divide_the_rpcs_are_accepted(load, phase, more):
    table = load(f"phase: {phase}\nroutes:\n  {more}")
    assert table.shares_volumes
    assert table.states["grpc.DeleteCollection"] is State.NATIVE


def test_a_vacuum_of_which_one_step_is_forwarded_is_forwarded_whole(load):
    table = load("phase: 3\nroutes:\n  grpc.VacuumVolumeCompact: forward")
    assert {table.states[name] for name in VACUUM} == {State.FORWARD}


def test_what_has_no_handler_needs_a_backend(refuse):
    (problem,) = refuse("phase: 3", native_names=EVERY_NAME - {"grpc.Query"}, has_backend=False)
    assert "would be forwarded, but there is no backend" in problem


def test_a_pattern_that_says_native_of_what_has_no_handler_is_an_error(refuse):
    (problem,) = refuse('phase: 3\nroutes:\n  "grpc.Q*": native', native_names=EVERY_NAME - {"grpc.Query"})
    assert "grpc.Query" in problem
