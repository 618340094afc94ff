"""How far one request travels through the source, in a whole server: the bounds of docs/architecture.md."""

import gc

import pytest

from tests.bench import walk
from tests.bench.walk import BOUNDS, Walk, measure_walk, walk_once


@pytest.mark.parametrize("kind", BOUNDS)
def test_a_request_enters_few_files(kind):
    figures, steps = measure_walk(kind, shows_steps=True)
    beyond = {name: figures[name] for name, most in BOUNDS[kind].items() if figures[name] > most}
    assert not beyond, f"more than {BOUNDS[kind]}:\n" + "\n".join(steps)


class AnsweringStream:
    """Enters one step for each request, and answers it. `during` is called meanwhile."""

    def __init__(self, walked, during):
        self.walked, self.during = walked, during

    async def send_all(self, _request):
        self.walked.steps.append(("file", "function"))
        self.during()

    async def receive_some(self):
        return b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.mark.parametrize("begins", [False, True])
async def test_a_walk_in_which_a_second_begins_does_not_count(begins, monkeypatch, autojump_clock):
    """Whatever is first in a second makes the text of Date for all others."""
    dates = ["now"]
    monkeypatch.setattr(walk, "http_date", lambda: dates[-1])
    walked = Walk()
    stream = AnsweringStream(walked, lambda: dates.append("later") if begins else None)
    assert await walk_once(walked, stream, b"GET /") == (None if begins else [("file", "function")])


async def test_no_collection_comes_into_a_walk(autojump_clock):
    """A collection calls what the server has registered for it."""
    enabled = []
    walked = Walk()
    await walk_once(walked, AnsweringStream(walked, lambda: enabled.append(gc.isenabled())), b"GET /")
    assert (enabled, gc.isenabled()) == ([False], True)
