import json

import pytest
import trio

from native_handlers.http.context import NodeDetails, PeerFailed, PeerFailureKind, PeerResponse
from native_handlers.http.headers import Headers
from native_handlers.http.node_view import NodeState
from supervisor.gateway import backend_view
from supervisor.gateway.backend_view import BackendNodeView
from supervisor.gateway.shared_view import SharedNodeView
from supervisor.net.errors import BackendUnavailable

STATUS = {"DiskStatuses": [{"dir": "/data", "all": 9}], "Version": "30GB 4.44 ", "Volumes": [{"Id": 3}]}


class Chunks:
    def __init__(self, *pieces):
        self.pieces = list(pieces)
        self.is_closed = False

    def __aiter__(self):
        return self

    async def __anext__(self):
        if not self.pieces:
            raise StopAsyncIteration
        return self.pieces.pop(0)

    async def aclose(self):
        self.is_closed = True


class Child:
    """A PeerHttp that answers each request with the next of `answers`; an exception is raised."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    async def request(self, method, url_host_port, target, headers, body):
        self.asked.append((method, url_host_port, target))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            await trio.sleep_forever()
        status, chunks = answer
        return PeerResponse(status, Headers(), chunks)


def whole(status=STATUS):
    text = json.dumps(status).encode()
    return 200, Chunks(text[:7], text[7:])


def view_of(child):
    return BackendNodeView(
        child,
        NodeState(
            details=lambda: NodeDetails(started_at_s=1.0), is_heartbeating=lambda: True, is_stopping=lambda: False
        ),
        address=lambda: "127.0.0.1:1",
    )


async def test_one_page_is_one_question(autojump_clock):
    child = Child(whole(), whole())
    view = view_of(child)
    assert await view.volumes() == [{"Id": 3}]
    assert await view.disk_statuses() == STATUS["DiskStatuses"]
    assert await view.findings() == []
    assert child.asked == [("GET", "127.0.0.1:1", "/status")]
    await trio.sleep(2)
    assert await view.disk_statuses() == STATUS["DiskStatuses"]
    assert len(child.asked) == 2


async def test_findings_of_both_engines_are_one_list():
    theirs = {"Path": "/d/4", "Kind": "IDX_LOST", "Text": "t"}
    at_backend = view_of(Child(whole({**STATUS, "Findings": [theirs]})))

    class Natively:
        async def findings(self):
            return [{**theirs, "Path": "/d/5"}]

    shared = SharedNodeView(Natively(), at_backend, at_backend._state)
    assert [row["Path"] for row in await shared.findings()] == ["/d/5", "/d/4"]
    assert not shared.is_stopping


async def test_null_lists_are_empty():
    view = view_of(Child(whole({"DiskStatuses": None, "Volumes": None})))
    assert await view.volumes() == []
    assert await view.disk_statuses() == []


async def test_the_other_facts_are_the_supervisors():
    view = view_of(Child())
    assert (await view.details()).started_at_s == 1.0
    assert view.is_heartbeating
    assert not view.is_stopping


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (PeerFailed("127.0.0.1:1", PeerFailureKind.CONNECTION_REFUSED, "connection refused"), "connection refused"),
        ((200, Chunks(b"not json")), "cannot be read"),
        ((200, Chunks(b"[1]")), "answered 200"),
        ((503, Chunks(b"{}")), "answered 503"),
        (None, "no /status within 10 s"),
    ],
)
async def test_no_answer_is_never_an_empty_list(autojump_clock, answer, text):
    with pytest.raises(BackendUnavailable, match=text):
        await view_of(Child(answer)).volumes()


async def test_an_endless_answer_is_given_up(monkeypatch):
    monkeypatch.setattr(backend_view, "MAX_STATUS_BYTES", 10)
    chunks = Chunks(b"x" * 8, b"x" * 8, b"x" * 8)
    with pytest.raises(BackendUnavailable, match="longer than 10"):
        await view_of(Child((200, chunks))).volumes()
    assert chunks.is_closed
