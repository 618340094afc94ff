"""The fast path does what the ordinary way does, or it leaves the request to the ordinary way and has changed nothing:
the same answers byte for byte, the same bytes in the volume's files, the same counts and the same lines in the access
log, under all settings. So does the fast path of a worker, whose volumes are attached to those of another process.
"""

from __future__ import annotations

import copy
import logging
import re
import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import trio
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from support.disks import DiskInService
from support.fast_path_requests import (
    EXPIRING,
    NOW_S,
    PLAIN,
    READ_KEY,
    REPLICATED,
    SEALED,
    SENDERS,
    WRITE_KEY,
    bare_needle,
    needles,
    packed_needle,
    requests,
    requests_with_bad_tokens,
    usual_deletion,
    usual_needle,
    usual_read,
    usual_requests,
    usual_upload,
)
from support.http_serving import ordinary_answer
from support.security import security
from support.stores import open_at
from support.waiting import LIMIT_S

from native_handlers.http import write as ordinary_write
from native_handlers.http.context import HttpContext
from native_handlers.http.settings import HttpSettings
from native_handlers.http_model.message import HeldAnswer, Listener, PendingAnswer
from native_handlers.storage.settling import Settling
from native_handlers.storage.shared.attach import share_volume
from native_handlers.storage.shared.reading import attach_for_reading
from native_handlers.storage.shared.writing import attach_for_writing
from supervisor.fast_path import writes as fast_writes
from supervisor.fast_path.fast_path import FastPath
from supervisor.fast_path.write_batch import DiskBatches
from supervisor.gateway.guard import Guard
from supervisor.gateway.http import HttpGateway
from supervisor.gateway.throttle import InflightLimit, Throttle
from supervisor.net.http_connection import Client
from supervisor.routing.live import LiveTable
from supervisor.routing.native import NATIVE_HTTP
from supervisor.routing.table import table_native

SETTINGS = HttpSettings(version="30GB 4.44", self_url="127.0.0.1:8080", file_size_limit_bytes=4000)
CHANGING = re.compile(rb"(X-Amz-Request-Id|Date): [^\r]*|(?<=boundary=)[0-9a-f]{60}|(?<=--)[0-9a-f]{60}")
CLIENT = Client("10.0.0.1", 1, Listener.ADMIN)
READS = {"GET", "HEAD"}
ALLOWING = [("10.0.0.0/8",), ("10.0.0.1", "::1")]
"""White lists that allow the client."""
MAX_BYTES = 1 << 20
USUAL_ANSWERS = {
    *(("GET", status) for status in (200, 206, 304)),
    *(("HEAD", status) for status in (200, 304)),
    *((method, 201) for method in ("PUT", "POST")),
    ("DELETE", 202),
}


@dataclass(frozen=True)
class Rules:
    """The settings that may forbid a request, or have an effect beside its answer."""

    has_read_key: bool = False
    has_write_key: bool = False
    white_list: tuple[str, ...] = ()
    download_bytes: int | None = None
    """The bytes in flight where there is a limit: more than it allows, or fewer."""
    upload_bytes: int | None = None
    is_logged: bool = False

    def must_answer(self, sent):
        """Whether the fast path must answer a usual request itself."""
        is_read = sent.method in READS
        has_key = self.has_read_key if is_read else self.has_write_key
        if not sent.is_usual or (has_key and not sent.has_token):
            return False
        if not is_read and self.white_list and self.white_list not in ALLOWING:
            return False
        if sent.method == "DELETE":
            return True
        return ((self.download_bytes if is_read else self.upload_bytes) or 0) <= MAX_BYTES


KEYS = Rules(has_read_key=True, has_write_key=True)
EVERYTHING = Rules(True, True, ALLOWING[0], 0, 5, is_logged=True)
rules = st.builds(
    Rules,
    st.booleans(),
    st.booleans(),
    st.sampled_from([(), (), *ALLOWING, ("10.9.9.9",)]),
    st.sampled_from([None, None, 0, 5, MAX_BYTES + 1]),
    st.sampled_from([None, None, 0, 5, MAX_BYTES + 1]),
    st.booleans(),
)


def clock_ns():
    return NOW_S * 10**9


class Attached:
    """The volumes of a store as a worker has them; see `AttachedVolumes`."""

    def __init__(self, store):
        self.settling = Settling()
        self._readers, self._writers = {}, {}
        for volume in store.volumes():
            fd = share_volume(volume, loop_thread=threading.get_ident())
            self._readers[volume.id] = attach_for_reading(
                fd, DiskInService(), clock_ns, loop_thread=threading.get_ident()
            )
            self._writers[volume.id] = attach_for_writing(fd, DiskInService(), clock_ns)

    def find_volume(self, vid):
        return self._readers.get(vid)

    def find_writer(self, vid):
        return self._writers.get(vid)

    def close(self):
        for volume in (*self._readers.values(), *self._writers.values()):
            volume.detach()


class Node:
    """A store, and both ways into it under each of the rules. `taken` counts what the fast path has answered.

    Args:
        is_worker: the fast path is that of a worker.
    """

    def __init__(self, path, *, is_worker=False):
        self.path = path
        self.store = open_at(path, clock_ns=clock_ns)
        self.store.allocate_volume(PLAIN)
        self.store.allocate_volume(EXPIRING, ttl="3m")
        self.store.allocate_volume(SEALED)
        self.store.get_volume(SEALED).marks.mark_read_only(can_delete=False, persist=False)
        self.store.allocate_volume(REPLICATED, replication="001")
        self.context = self.fast_context = HttpContext(settings=SETTINGS, node=None, store=self.store)
        self.attached = None
        if is_worker:
            self.attached = Attached(self.store)
            self.fast_context = replace(self.context, store=None, attached=self.attached)
        self.batches = DiskBatches(wait_s=LIMIT_S)
        self.taken = Counter()
        self.lines = []
        self._ways = {}

    def close(self):
        self.batches.close()
        if self.attached is not None:
            self.attached.close()
        self.store.close()

    def way(self, rules):
        """Gateway, fast path and throttle under `rules`; the same ones each time, so that they remember heads."""
        if rules not in self._ways:
            keys = {"read": READ_KEY * rules.has_read_key, "write": WRITE_KEY * rules.has_write_key}
            guard = Guard(security(**keys, white_list=rules.white_list), now_s=lambda: float(NOW_S))
            limits = [
                InflightLimit() if inflight is None else InflightLimit(MAX_BYTES, wait_s=0.0)
                for inflight in (rules.upload_bytes, rules.download_bytes)
            ]
            throttle, table = Throttle(*limits), LiveTable(table_native(NATIVE_HTTP))
            gateway = HttpGateway(table, NATIVE_HTTP, self.context, None, guard, throttle)
            fast_path = FastPath(self.fast_context, gateway, self.batches)
            throttle.uploads.bytes, throttle.downloads.bytes = rules.upload_bytes or 0, rules.download_bytes or 0
            self._ways[rules] = SimpleNamespace(gateway=gateway, fast_path=fast_path, throttle=throttle)
        return self._ways[rules]

    def write(self, needle, volume_id=PLAIN):
        self.store.get_volume(volume_id).write(copy.deepcopy(needle))

    @contextmanager
    def logging(self, rules):
        """Collects the lines that go to the access log inside."""
        logger, handler = logging.getLogger("supervisor.access"), logging.Handler()
        handler.emit = lambda record: self.lines.append(re.sub(r" [0-9.]+$", "", record.getMessage()))
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG if rules.is_logged else logging.INFO)
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)

    def answer_fast(self, rules, sents):
        """The answers of the fast path to requests that come in one turn; None for those that it leaves."""
        with self.logging(rules):
            return trio.run(self._answer_fast, rules, sents)

    async def _answer_fast(self, rules, sents):
        fast_path = self.way(rules).fast_path
        answers = [fast_path.answer(CLIENT, sent.raw) for sent in sents]
        for number in sorted(range(len(sents)), key=lambda number: sents[number].is_synced):
            answers[number] = await self._outcome(answers[number])
        for sent, answer in zip(sents, answers, strict=True):
            if answer is not None:
                self.taken[sent.method, int(answer[9:12])] += 1
        return answers

    async def _outcome(self, answer):
        if isinstance(answer, HeldAnswer):
            whole = answer.head + bytes(answer.body)
            answer.release()
            return whole
        if not isinstance(answer, PendingAnswer):
            return answer
        if not answer.try_finish():
            await answer.wait()
        return answer.outcome()

    def answer(self, rules, raw):
        """The answer of the ordinary way, without what differs from answer to answer."""
        with self.logging(rules):
            return comparable(trio.run(ordinary_answer, self.way(rules).gateway.handle, raw))

    def files(self):
        names = sorted(path for path in self.path.iterdir() if path.suffix in {".dat", ".idx"})
        return {path.name: path.read_bytes() for path in names}

    def counts(self, rules):
        counts, way = self.context.metrics.snapshot(), self.way(rules)
        totals = {kind: sum(seen.counts) for kind, seen in counts.request_seconds.items()}
        requests = counts.request_total, counts.in_flight_requests, sum(counts.replication_targets.counts), totals
        return *requests, way.gateway.counts, way.throttle.uploads.bytes, way.throttle.downloads.bytes


def comparable(answer):
    return CHANGING.sub(rb"\1", answer)


@pytest.fixture(scope="module", autouse=True)
def same_time():
    """Both ways store the same time of modification."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (ordinary_write, fast_writes):
            patch.setattr(module, "time", SimpleNamespace(time=lambda: NOW_S))
        yield


@pytest.fixture(scope="module", params=[False, True], ids=["one process", "a worker"])
def nodes(request, tmp_path_factory):
    """The first one answers by the fast path where it can, the other one by the ordinary way alone."""
    made = [
        Node(tmp_path_factory.mktemp("fast"), is_worker=request.param),
        Node(tmp_path_factory.mktemp("ordinary")),
    ]
    for node in made:
        node.write(usual_needle())
        node.write(bare_needle())
        node.write(packed_needle())
    yield made
    for node in made:
        node.close()


def compare(nodes, rules, sents):
    """Sends `sents` in one turn, and compares everything. Returns the answers of the fast path."""
    fast, ordinary = nodes
    for sent in sents:
        if sent.stored is not None:
            for node in nodes:
                node.write(sent.stored)
    for node in nodes:
        node.lines.clear()
    answers = fast.answer_fast(rules, sents)
    # Reads are answered in the turn, changes at its end, then those that are synced. What the fast path leaves is last.
    taken = [(sent, answer) for sent, answer in zip(sents, answers, strict=True) if answer is not None]
    for sent, answer in sorted(taken, key=lambda one: (one[0].method not in READS, one[0].is_synced)):
        assert comparable(answer) == ordinary.answer(rules, sent.raw)
    for sent, answer in zip(sents, answers, strict=True):
        if answer is None:
            assert fast.answer(rules, sent.raw) == ordinary.answer(rules, sent.raw)
            assert not rules.must_answer(sent), "the fast path has declined a usual request"
    assert fast.files() == ordinary.files()
    assert fast.counts(rules) == ordinary.counts(rules)
    assert fast.lines == ordinary.lines
    assert rules.is_logged or not fast.lines
    return answers


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    rules=st.one_of(st.just(Rules()), rules),
    needle=needles(),
    volume_id=st.sampled_from([PLAIN, PLAIN, PLAIN, EXPIRING]),
    sents=st.lists(requests, min_size=1, max_size=5),
)
def test_both_ways_do_the_same(nodes, rules, needle, volume_id, sents):
    for node in nodes:
        node.write(needle, volume_id)
    compare(nodes, rules, sents)


@pytest.mark.slow
@pytest.mark.parametrize("rules", [Rules(), KEYS, EVERYTHING], ids=["nothing", "keys", "everything"])
def test_the_fast_path_answers_every_usual_request(nodes, rules):
    """Slow: sends hundreds of requests both ways."""
    sents = [sent for sent in usual_requests() if rules.must_answer(sent)]
    before = nodes[0].taken.copy()
    for at in range(0, len(sents), 16):
        assert None not in compare(nodes, rules, sents[at : at + 16])
    taken = nodes[0].taken - before
    assert taken.total() == len(sents)
    assert set(taken) == USUAL_ANSWERS


CHANGES = [usual_upload(b"PUT"), usual_upload(b"POST", sender=SENDERS[1]), usual_deletion()]
READING = [usual_read(), usual_read(b"HEAD"), usual_read(wanted=b"0-1")]


@pytest.mark.parametrize(
    ("rules", "sents", "statuses"),
    [
        pytest.param(KEYS, requests_with_bad_tokens(), {401}, id="tokens"),
        pytest.param(Rules(white_list=("10.9.9.9",)), CHANGES, {401}, id="white-list"),
        pytest.param(Rules(download_bytes=MAX_BYTES + 1), READING, {429}, id="downloads"),
        pytest.param(Rules(upload_bytes=MAX_BYTES + 1), CHANGES[:2], {429}, id="uploads"),
    ],
)
def test_the_fast_path_answers_nothing_that_the_ordinary_way_refuses(nodes, rules, sents, statuses):
    before = nodes[0].context.metrics.snapshot().request_total
    for sent in sents:
        assert compare(nodes, rules, [sent]) == [None]
    refused = nodes[0].context.metrics.snapshot().request_total - before
    assert refused.total() == len(sents)
    assert {int(status) for _, status in refused} == statuses
