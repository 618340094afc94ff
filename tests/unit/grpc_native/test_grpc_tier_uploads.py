"""A move to a tier that ends early leaves no object behind, or says which."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from support.grpc_nodes import make_context, make_node
from support.played_s3 import played_s3
from support.stores import open_at
from support.waiting import LIMIT_S, wait_until

from native_handlers.format.needle import Needle
from native_handlers.grpc import tiers as tier_moves
from native_handlers.grpc.context import RequestsBroken, RpcFailure
from native_handlers.grpc.tiers import volume_tier_move_dat_to_remote
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.remote import s3_tier
from native_handlers.storage.remote.s3_tier import S3Tier
from native_handlers.storage.remote.tier_files import TierFiles
from native_handlers.storage.remote.tiers import Tiers, TierSettings

VID, COOKIE = 7, 0x11223344
REQUEST = pb.VolumeTierMoveDatToRemoteRequest(volume_id=VID, destination_backend_name="s3.cold")


@pytest.fixture
def service():
    with played_s3({}) as played:
        yield played


@pytest.fixture
def node(service, tmp_path, monkeypatch):
    monkeypatch.setattr(tier_moves, "REPORT_EVERY_S", 0.01)
    tiers = Tiers({"s3": S3Tier})
    tiers.load([TierSettings("s3", "cold", service.properties())])
    files = TierFiles(tiers)
    store = open_at(tmp_path, files=files, tiers=files)
    volume = store.allocate_volume(VID)
    volume.write(Needle(needle_id=9, cookie=COOKIE, data=b"data"))
    yield make_node(tmp_path, store)
    assert not volume.is_tiered
    volume.write(Needle(needle_id=10, cookie=COOKIE, data=b"it takes writes again"))
    store.close()


class Client:
    """A client that goes after the upload's last report of its progress."""

    def __init__(self, service) -> None:
        self.service, self.is_there = service, True
        self.may_answer = threading.Event()
        usual = service.answer_head

        def answers_late(*arguments):
            self.may_answer.wait()
            usual(*arguments)

        service.answer_head = answers_late
        self.context = replace(make_context(), is_active=self.is_active)

    def is_active(self):
        if not self.is_there:
            self.may_answer.set()
        return self.is_there

    def goes_when_the_object_is_there(self):
        wait_until(lambda: any(method == "HEAD" for method, *_ in self.service.requests), "the upload's last request")
        assert self.service.objects
        self.is_there = False


def test_a_client_that_goes_near_the_end_leaves_no_object(service, node):
    client = Client(service)
    answers = volume_tier_move_dat_to_remote(node, client.context, REQUEST)
    next(answers)
    client.goes_when_the_object_is_there()
    with pytest.raises(RequestsBroken):
        list(answers)
    assert service.objects == {}


def test_answers_that_nobody_takes_leave_no_object(service, node):
    """As when the call is over while an answer is sent."""
    client = Client(service)
    answers = volume_tier_move_dat_to_remote(node, client.context, REQUEST)
    next(answers)
    client.goes_when_the_object_is_there()
    client.may_answer.set()
    answers.close()
    assert service.objects == {}


@pytest.mark.slow
@pytest.mark.parametrize(("status", "length"), [(403, 0), (200, 1)])
def test_an_object_that_cannot_be_looked_at_does_not_stay(service, node, status, length):
    """Slow: the client asks several times."""
    service.answer_head = lambda request, *_: request.say(status, b"", {"Content-Length": str(length)})
    with pytest.raises(RpcFailure, match=r"^backend s3\.cold copy file .*7\.dat: failed to upload file .*7\.dat: "):
        list(volume_tier_move_dat_to_remote(node, make_context(), REQUEST))
    assert service.objects == {}


def test_an_object_that_stays_is_named(service, node, caplog):
    def refuses(request, *_):
        request.say(403, b"")

    service.answer_head = service.answer_delete = refuses
    with caplog.at_level(logging.WARNING), pytest.raises(RpcFailure):
        list(volume_tier_move_dat_to_remote(node, make_context(), REQUEST))
    (key,) = service.objects
    assert f"the object {key} of an upload that failed may stay in bucket played" in caplog.text


@pytest.mark.slow
def test_a_tier_that_hangs_keeps_the_volume_from_writes_for_seconds_alone(service, node, monkeypatch, caplog):
    """The fixture writes to the volume afterwards. Slow: waits for the tier."""
    monkeypatch.setattr(s3_tier, "HURRIED_LIMIT_S", 0.2)
    client, goes_on = Client(service), threading.Event()
    service.answer_delete = lambda *_: goes_on.wait()
    answers = volume_tier_move_dat_to_remote(node, client.context, REQUEST)
    next(answers)
    client.goes_when_the_object_is_there()
    with ThreadPoolExecutor(1) as threads:
        ended = threads.submit(list, answers)
        try:
            with pytest.raises(RequestsBroken):
                ended.result(LIMIT_S)
        finally:
            goes_on.set()
    (key,) = service.objects
    assert f"the object {key} of a move that failed stays in s3.cold" in caplog.text
