"""The messages of the control channel as bytes, and the settings and counts that they carry."""

from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import pytest

from native_handlers.http.settings import HttpSettings
from native_handlers.http_model.message import Listener
from native_handlers.http_model.read_mode import ReadMode
from native_handlers.runtime.server_counts import Counts, Distribution, ServerCounts
from supervisor.config.config import HttpsClientConfig, LogConfig
from supervisor.net.tls import TlsSettings
from supervisor.routing.decision import Engine
from supervisor.workers import messages
from supervisor.workers.counts import CountSums, WorkerCounts
from supervisor.workers.messages import (
    BadControlMessage,
    ControlAnswer,
    ControlCall,
    Fields,
    MessageReader,
    encode_answer,
    encode_call,
    encode_refusal,
)
from supervisor.workers.settings import AccessRules, BackendAddress, InheritedListener, WorkerSettings


def received(data):
    """The messages in `data`, as plain values."""
    found = []
    for one in MessageReader().feed(data):
        match one:
            case ControlCall():
                found.append((one.number, one.kind, one.body.names()))
            case ControlAnswer():
                found.append((one.number, one.refusal, one.body.names()))
    return found


MESSAGES = encode_call(7, "access", {"a": 1}) + encode_answer(8, {"b": "é"}) + encode_refusal(9, "no")


def test_messages_arrive_as_they_were_sent():
    assert received(MESSAGES) == [(7, "access", ["a"]), (8, "", ["b"]), (9, "no", [])]


def test_messages_may_arrive_in_any_pieces():
    for size in range(1, len(MESSAGES)):
        reader, found = MessageReader(), 0
        for start in range(0, len(MESSAGES), size):
            found += len(list(reader.feed(MESSAGES[start : start + size])))
        assert found == 3
        assert not reader.has_part


def test_a_part_of_a_message_is_kept():
    reader = MessageReader()
    assert len(list(reader.feed(MESSAGES[:-1]))) == 2
    assert reader.has_part
    assert len(list(reader.feed(MESSAGES[-1:]))) == 1
    assert not reader.has_part


def framed(content):
    return len(content).to_bytes(4, "big") + content


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"call": 1, "kind": 2, "body": {}}',
        b'{"call": "1", "kind": "a", "body": {}}',
        b'{"call": true, "kind": "a", "body": {}}',
        b'{"call": 1, "kind": "a"}',
        b'{"answer": 1}',
        b'{"answer": 1, "refusal": 0}',
        b"\xff",
    ],
)
def test_what_is_no_message_is_refused(content):
    with pytest.raises(BadControlMessage):
        list(MessageReader().feed(framed(content)))


def test_a_length_beyond_the_bound_is_refused_before_the_message_has_come():
    with pytest.raises(BadControlMessage):
        list(MessageReader().feed((messages.MAX_MESSAGE_BYTES + 1).to_bytes(4, "big")))
    with pytest.raises(ValueError, match="are the most"):
        encode_call(1, "a", {"b": "x" * messages.MAX_MESSAGE_BYTES})


@pytest.mark.parametrize("value", [None, 1, 1.5, "a", True, [1], [{}, 1], {"a": 1}])
def test_a_field_of_another_type_is_refused(value):
    data = Fields({"x": value})
    by_type = {
        "text": str,
        "integer": int,
        "boolean": bool,
        "object": dict,
        "items": list,
    }
    for name, wanted in by_type.items():
        if type(value) is wanted:
            getattr(data, name)("x")
        else:
            with pytest.raises(BadControlMessage):
                getattr(data, name)("x")
    for name in ("texts", "objects"):
        with pytest.raises(BadControlMessage):
            getattr(data, name)("x")


def through(body):
    """`body` as the other end gets it."""
    (message,) = MessageReader().feed(encode_answer(1, body))
    return message.body


SETTINGS = WorkerSettings(
    number=1,
    count=2,
    listeners=(
        InheritedListener(5, Listener.ADMIN, TlsSettings(cert=Path("/c"), key=Path("/k"), ca=Path("/a"), alpn=("h",))),
        InheritedListener(6, Listener.PUBLIC),
    ),
    board_descriptor=7,
    log=LogConfig(1, True, Path("/logs")),
    http=HttpSettings(
        version="30GB 4.44",
        self_url="a:1",
        file_size_limit_bytes=9,
        commit="c",
        read_mode=ReadMode.LOCAL,
        fix_jpg_orientation=True,
        has_ui=False,
        volume_server_scheme="https",
    ),
    idle_timeout_s=30,
    drain_s=30.0,
    seats=100,
    links=10,
    source_host="10.0.0.1",
    https_client=HttpsClientConfig(True, Path("/cc"), None, Path("/ca"), True),
    access=AccessRules(("10.0.0.0/8", ""), b"\x00\xffwrite", b"read"),
    backend=BackendAddress(1000, 1001),
    is_stopping=True,
    max_download_bytes=11,
    max_volumes=12,
)


def test_settings_arrive_as_they_were_sent():
    assert WorkerSettings.from_data(through(SETTINGS.as_data())) == SETTINGS
    native = replace(SETTINGS, backend=None, parent_descriptor=8)
    assert WorkerSettings.from_data(through(native.as_data())) == native


def test_a_worker_puts_its_own_numbers_of_descriptors_into_its_settings():
    native = replace(SETTINGS, backend=None, parent_descriptor=8)
    here = native.with_descriptors({5: 15, 6: 16, 7: 17, 8: 18})
    assert [one.descriptor for one in here.listeners] == [15, 16]
    assert (here.board_descriptor, here.parent_descriptor) == (17, 18)
    assert here.with_descriptors({15: 5, 16: 6, 17: 7, 18: 8}) == native
    assert SETTINGS.with_descriptors({5: 5, 6: 6, 7: 7}) == SETTINGS
    with pytest.raises(KeyError):
        native.with_descriptors({5: 15, 6: 16, 7: 17})


@pytest.mark.parametrize("name", [one.name for one in fields(WorkerSettings)])
def test_settings_without_a_field_are_refused(name):
    data = {key: value for key, value in SETTINGS.as_data().items() if key != name}
    with pytest.raises(BadControlMessage):
        WorkerSettings.from_data(through(data))


def test_access_rules_give_a_security_configuration_with_these_rules():
    security = SETTINGS.access.security
    assert AccessRules.of(security) == SETTINGS.access
    assert "write" not in repr(SETTINGS.access)


def counted():
    """Counts with something in every family."""
    counts = Counts()
    for number, one in enumerate(fields(counts), 1):
        family = getattr(counts, one.name)
        match family:
            case int():
                setattr(counts, one.name, number)
            case Distribution():
                family.observe(1.5)
            case Counter():
                pass
            case dict():
                if one.name == "scrub_last_time_seconds":
                    family["full"] = 5.5
                else:
                    family["GET"].observe(0.01)
    counts.request_total["GET", "200"] = 3
    counts.in_flight_requests["GET"] = 2
    counts.handler_total["x"] = 1
    counts.replication_operations_total["write", "success"] = 4
    counts.replication_failures_total["write", "timeout"] = 5
    counts.vacuuming_compact_count[True] = 6
    counts.vacuuming_commit_count[False] = 7
    counts.scrub_volume_failures["full"] = 8
    counts.scrub_shard_failures["full"] = 9
    counts.ec_rebuild_total["success"] = 10
    counts.upload_error_total["0"] = 11
    for one in fields(counts):
        assert getattr(counts, one.name) != getattr(Counts(), one.name), f"nothing in {one.name}"
    return counts


def worker_counts(**changes):
    requests = Counter({("http.read", Engine.BACKEND): 7})
    return WorkerCounts(**({"requests": requests, "server": counted(), "open_count": 3, "refused": 1} | changes))


def test_counts_arrive_as_they_were_sent():
    assert WorkerCounts.from_data(through(worker_counts().as_data())) == worker_counts()


@pytest.mark.parametrize(
    "changes",
    [
        {"requests": [["http.read", 1, 2]]},
        {"requests": [1]},
        {"open_count": "1"},
        {"server": {}},
    ],
)
def test_counts_of_another_form_are_refused(changes):
    with pytest.raises(BadControlMessage):
        WorkerCounts.from_data(through(dict(worker_counts().as_data()) | changes))


@pytest.mark.parametrize("family", [[["GET", "x"]], [[1, 2]], [["GET", {"counts": [1], "total": 0}]]])
def test_families_of_another_form_are_refused(family):
    data = dict(worker_counts().as_data())
    data["server"] = dict(data["server"]) | {"request_seconds": family}
    with pytest.raises(BadControlMessage):
        WorkerCounts.from_data(through(data))


def test_counts_are_added_family_by_family():
    total = counted()
    total.add(counted())
    assert total.request_total["GET", "200"] == 6
    assert total.file_read_failures == 2 * counted().file_read_failures
    assert total.replication_targets.total == 3.0
    assert sum(total.request_seconds["GET"].counts) == 2
    assert total.scrub_last_time_seconds == {"full": 5.5}


def test_a_snapshot_includes_what_other_processes_have_counted():
    counts = ServerCounts()
    counts.count_request("GET", 200, 0.01)
    counts.include(counted)
    assert counts.snapshot().request_total["GET", "200"] == 4
    assert counts.snapshot().request_total["GET", "200"] == 4


def test_no_sum_goes_back_when_a_worker_ends():
    sums = CountSums()
    sums.note(0, worker_counts())
    sums.note(1, worker_counts())
    before = sums.total()
    assert before.requests["http.read", Engine.BACKEND] == 14
    assert before.open_count == 6
    sums.add_ended(0)
    sums.add_ended(0)
    after = sums.total()
    assert after.requests == before.requests
    assert after.server.request_total == before.server.request_total
    assert after.refused == before.refused
    assert after.open_count == 3, "its connections are closed"
    assert after.server.in_flight_requests["GET"] == 2, "its requests were cut"
    assert list(sums.running()) == [1]
    sums.note(0, worker_counts())
    assert sums.total().requests["http.read", Engine.BACKEND] == 21
