"""docs/routing.md has a row for every route, and says of each what the registry says."""

from __future__ import annotations

import re
from pathlib import Path

from supervisor.routing.registry import MAX_PHASE, ROUTES, Protocol
from supervisor.routing.states import State

PAGE = (Path(__file__).parents[2] / "docs" / "routing.md").read_text()
ROW = re.compile(r"^\| `((?:http|grpc)\.[^`]+)` \| (.*) \| (.*) \| (\d) \|$", re.MULTILINE)


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
