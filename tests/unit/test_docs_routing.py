"""docs/routing.md has a row for every route, with the facts of the registry."""

from __future__ import annotations

import re
from pathlib import Path

from supervisor.routing.registry import (
    FLIP_GROUPS,
    MAX_PHASE,
    ROUTES,
    AfterForward,
    BeforeForward,
    Leaves,
    Protocol,
    Route,
    Sharing,
)
from supervisor.routing.states import State

PAGE = (Path(__file__).parents[2] / "docs" / "routing.md").read_text()
ROW = re.compile(r"^\| `((?:http|grpc)\.[^`]+)` \| (.*) \| (.*) \| (\d) \|$", re.MULTILINE)


def facts_of(route: Route) -> str:
    """The row of `route` in the page's form."""
    if route.protocol is Protocol.HTTP:
        counted = "yes" if route.is_counted else "no"
        cells = [route.gate.value, route.token.value, route.common_headers.value, counted]
    else:
        cells = [route.gate.value, route.pool.value]
    return f"| `{route.name}` | {' | '.join([*cells, '; '.join(rules_of(route))])} |"


def rules_of(route: Route) -> list[str]:
    found = {
        "health check": route.is_health,
        "only while the status page is switched on": route.is_status_page,
        "large requests": route.takes_large_requests,
        "without a volume: all volumes": route.access.none_means_all,
        f"fetches from `{route.source.field}`" if route.source else "": route.source,
        f"before: {route.before_forward.value}": route.before_forward is not BeforeForward.NOTHING,
        f"after: {route.after_forward.value}": route.after_forward is not AfterForward.NOTHING,
        f"leaves: {route.leaves.value}": route.leaves is not Leaves.NOTHING,
        "takes the volume away": route.takes_volume_away,
        f"must be {route.shared.value} while volumes are shared": route.shared is not Sharing.EITHER,
    }
    return [text for text, is_so in found.items() if is_so]


def test_what_is_true_of_each_route_is_on_the_page():
    wanted = [facts_of(route) for route in ROUTES]
    assert [line for line in PAGE.splitlines() if line in wanted] == wanted


def test_each_group_of_routes_that_are_flipped_together_is_on_the_page():
    for group, names in FLIP_GROUPS.items():
        kind = "must be" if group.is_required else "should be"
        assert f"| {', '.join(f'`{name}`' for name in names)} | {kind} | {group.why} |" in PAGE.splitlines()


def test_every_route_has_one_row_in_the_order_of_the_registry():
    assert [match[1] for match in ROW.finditer(PAGE)] == [route.name for route in ROUTES]


def test_the_rows_say_what_the_registry_says():
    rows = {match[1]: match.groups()[1:] for match in ROW.finditer(PAGE)}
    for route in ROUTES:
        requests, touches, phase = rows[route.name]
        assert (touches, phase) == (str(route.access), str(route.phase)), route.name
        assert (route.answers if route.protocol is Protocol.HTTP else route.summary) in requests, route.name


def test_every_phase_and_state_is_explained():
    for phase in range(MAX_PHASE + 1):
        assert re.search(rf"^\| {phase} \| ", PAGE, re.MULTILINE)
    for state in State:
        assert f"`{state.value}`" in PAGE
