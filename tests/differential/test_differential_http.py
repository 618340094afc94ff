"""Random requests to Go's server and to the native one, one after the other on equal volumes: the answers must be the
same. Each example begins with its own needles, so its answers depend on no other example. A found difference is mended,
and gets a named test in tests/unit/http_native/test_http_native_found.py.
"""

from __future__ import annotations

import pytest
from differential_compare import Pair, difference
from differential_requests import sequences
from hypothesis import HealthCheck, given, settings

pytestmark = pytest.mark.slow
"""Starts two masters and two servers."""


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture])
@given(asks=sequences)
def test_the_same_answers(both, asks):
    pair = Pair(*both)
    for number, ask in enumerate(asks):
        raw, theirs, ours = pair.ask(ask)
        found = difference(theirs, ours)
        assert not found, f"request {number}: {raw[:600]!r}\n{found}"
