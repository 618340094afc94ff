from __future__ import annotations

import pytest

from supervisor.routing.decision import Decision, Engine, decide
from supervisor.routing.registry import ROUTES, ROUTES_BY_NAME
from supervisor.routing.states import State
from supervisor.routing.table import table_forwarding_all, table_native

READ = ROUTES_BY_NAME["http.read"]
QUERY = ROUTES_BY_NAME["grpc.Query"]


def test_forward_is_the_backend_and_says_why():
    assert decide(READ, 3, table_forwarding_all()) == Decision(READ, Engine.BACKEND, "proxy mode forwards it")


def test_native_is_this_process():
    assert decide(READ, None, table_native({"http.read"})) == Decision(
        READ, Engine.NATIVE, "native mode serves it natively"
    )


def test_what_nobody_serves_is_absent_and_never_forwarded():
    decision = decide(QUERY, None, table_native({"http.read"}))
    assert decision.is_absent
    assert decision.engine is Engine.NATIVE
    assert decision.why == "native mode serves it natively, but it has no native handler yet"


@pytest.mark.parametrize("table", [table_forwarding_all(), table_native(())], ids=["forward", "native"])
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_the_state_decides_for_every_route(route, table):
    decision = decide(route, 1, table)
    assert (decision.engine is Engine.BACKEND) == (table.state_of(route) is State.FORWARD)
    assert decision == decide(route, 2, table)
