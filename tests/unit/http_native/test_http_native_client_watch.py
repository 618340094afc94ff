"""Reads are cancelled when their client is gone."""

from __future__ import annotations

import pytest
import trio
from support.http_native import MemoryBody, make_request

from native_handlers.http import client_watch
from native_handlers.http.client_watch import ClientGone, unless_gone
from native_handlers.http.upload_body import read_form
from native_handlers.runtime.content_threads import ContentThreads


class WatchedBody(MemoryBody):
    """A body that has ended. Its client goes when `gone` is set."""

    is_over = True

    def __init__(self):
        super().__init__()
        self.gone = trio.Event()

    async def wait_gone(self):
        await self.gone.wait()


@pytest.fixture(autouse=True)
def _watch_at_once(monkeypatch):
    monkeypatch.setattr(client_watch, "WATCH_AFTER_S", 0)


async def forever(ended):
    try:
        await trio.sleep_forever()
    finally:
        ended.append(True)


async def test_work_ends_with_its_client():
    body, ended = WatchedBody(), []
    body.gone.set()
    with pytest.raises(ClientGone):
        await unless_gone(body, lambda: forever(ended))
    assert ended == [True]


async def test_what_work_returns_or_raises():
    async def answer():
        await trio.lowlevel.checkpoint()
        return 5

    async def fail():
        raise LookupError("as it is")

    for body in (WatchedBody(), MemoryBody()):
        assert await unless_gone(body, answer) == 5
        with pytest.raises(LookupError, match="as it is"):
            await unless_gone(body, fail)


async def test_a_client_that_has_a_body_to_send_is_not_watched():
    body, ended = WatchedBody(), []
    body.is_over = False
    body.gone.set()
    with trio.move_on_after(0.05) as scope:
        await unless_gone(body, lambda: forever(ended))
    assert scope.cancelled_caught


async def test_the_client_of_a_form_that_was_read_is_the_one_that_sent_the_form():
    sent = WatchedBody()
    sent.gone.set()
    request = make_request("POST", headers={"Content-Type": "application/x-www-form-urlencoded"}, body=sent)
    _, left = await read_form(request, ContentThreads())
    assert left.body is not sent
    with trio.fail_after(1):
        await left.body.wait_gone()
