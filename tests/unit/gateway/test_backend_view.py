import pytest
import trio
from support.backend_status import STATUS, WELL, Child, Chunks, view_of, whole

from native_handlers.http_model.volume_servers import VolumeServerFailed, VolumeServerFailureKind
from supervisor.gateway import backend_view
from supervisor.gateway.backend_view import SharedNodeView
from supervisor.net.errors import BackendUnavailable


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

    shared = SharedNodeView(Natively(), at_backend, WELL)
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
        (
            VolumeServerFailed("127.0.0.1:1", VolumeServerFailureKind.CONNECTION_REFUSED, "connection refused"),
            "connection refused",
        ),
        ((200, Chunks(b"not json")), "cannot be read"),
        ((200, Chunks(b"[1]")), "cannot be read: { expected"),
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
