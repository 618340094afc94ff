"""How far one request travels through the source, in a whole server: the bounds of docs/architecture.md."""

import pytest

from tests.bench.walk import BOUNDS, measure_walk


@pytest.mark.parametrize("kind", BOUNDS)
def test_a_request_enters_few_files(kind):
    figures, steps = measure_walk(kind, shows_steps=True)
    beyond = {name: figures[name] for name, most in BOUNDS[kind].items() if figures[name] > most}
    assert not beyond, f"more than {BOUNDS[kind]}:\n" + "\n".join(steps)
