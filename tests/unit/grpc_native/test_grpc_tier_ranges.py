"""A tier whose service answers ranges in odd ways: no other bytes than those of the object are taken."""

from __future__ import annotations

import threading
from random import Random

import pytest
from support.grpc_nodes import make_context, make_node
from support.played_s3 import played_s3
from support.stores import open_at
from support.waiting import LIMIT_S

from native_handlers.format.needle import Needle
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.tiers import volume_tier_move_dat_from_remote, volume_tier_move_dat_to_remote
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.remote import s3_ranges
from native_handlers.storage.remote.s3_tier import S3Tier
from native_handlers.storage.remote.tier_files import TierFiles
from native_handlers.storage.remote.tiers import TierFailed, Tiers, TierSettings

VID, COOKIE, NAME = 7, 0x11223344, "s3.cold"
OBJECT = Random(3).randbytes(300_000)
PART_BYTES = 64 << 10


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(s3_ranges, "PART_BYTES", PART_BYTES)


@pytest.fixture
def service():
    with played_s3({"a": OBJECT}) as played:
        yield played


@pytest.fixture
def tier(service):
    return S3Tier(TierSettings("s3", "cold", service.properties()))


@pytest.mark.parametrize("text", ["yes", "", "True"])
def test_texts_of_the_path_style_that_do_not_say_no_mean_yes(service, text):
    """As in Go's server. The bucket is in the path then, and in the name of the host else."""
    by_name = service.endpoint.replace("127.0.0.1", "localhost")
    said = dict(service.properties()) | {"force_path_style": text, "endpoint": by_name}
    assert S3Tier(TierSettings("s3", "cold", tuple(said.items()))).read("a", 0, 5) == OBJECT[:5]


def ignores_ranges(request, _key, data, _first, _last):
    request.say(200, data)


def refuses_one_part(request, _key, data, first, last):
    if first == PART_BYTES:
        request.say(416, b"<Error><Code>InvalidRange</Code></Error>")
    else:
        last = min(last, len(data) - 1)
        request.say(206, data[first : last + 1], {"Content-Range": f"bytes {first}-{last}/{len(data)}"})


def sends_another_range(request, _key, data, first, last):
    part = data[: last - first + 1]
    request.say(206, part, {"Content-Range": f"bytes 0-{len(part) - 1}/{len(data)}"})


def says_nothing_of_the_range(request, _key, data, first, last):
    request.say(206, data[first : last + 1])


def sends_fewer(request, _key, data, first, last):
    request.say(206, data[first:last], {"Content-Range": f"bytes {first}-{last}/{len(data)}"})


def has_another_length(request, _key, data, first, last):
    last = min(last, len(data) - 1)
    request.say(206, data[first : last + 1], {"Content-Range": f"bytes {first}-{last}/{len(data) + 1}"})


ODD = [ignores_ranges, refuses_one_part, sends_another_range, says_nothing_of_the_range, sends_fewer]


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, PART_BYTES, PART_BYTES + 1, len(OBJECT)])
def test_a_download_is_the_object(service, tier, tmp_path, size):
    """Slow: many parts."""
    service.objects["a"] = OBJECT[:size]
    told = []
    assert tier.download("a", tmp_path / "got", lambda *progress: told.append(progress)) == size
    assert (tmp_path / "got").read_bytes() == OBJECT[:size]
    assert max(told) == (size, 100.0)
    asked = [wanted for command, _, wanted in service.requests if command == "GET"]
    assert len(asked) == -(-size // PART_BYTES)


@pytest.mark.parametrize("answer", [*ODD, has_another_length])
def test_a_download_of_other_bytes_fails(service, tier, tmp_path, answer):
    service.answer_get = answer
    with pytest.raises(TierFailed, match=r"^failed to download /buckets/played/a to "):
        tier.download("a", tmp_path / "got", lambda *_progress: None)


def test_a_read_is_the_range(service, tier):
    assert tier.read("a", 0, 100) == OBJECT[:100]
    assert tier.read("a", 777, 100_000) == OBJECT[777:100_777]
    assert tier.read("a", len(OBJECT) - 5, 10) == OBJECT[-5:]
    assert tier.read("a", 777, 0) == b""


def test_a_read_behind_the_end_is_empty(tier):
    """As a file's: Go's `ReadAt` says EOF."""
    assert tier.read("a", len(OBJECT), 10) == b""


def test_the_whole_object_is_a_range_that_holds_all_of_it(service, tier, tmp_path):
    """Of such a range a service may send the whole object (RFC 9110 section 14.2)."""
    service.objects["a"] = OBJECT[:1000]
    service.answer_get = ignores_ranges
    assert tier.read("a", 0, 1000) == OBJECT[:1000]
    tier.download("a", tmp_path / "got", lambda *_progress: None)
    assert (tmp_path / "got").read_bytes() == OBJECT[:1000]


@pytest.mark.slow
@pytest.mark.parametrize("answer", [one for one in ODD if one is not refuses_one_part])
def test_a_read_of_other_bytes_fails(service, tier, answer):
    """Slow: each range is asked for several times."""
    service.answer_get = answer
    with pytest.raises(TierFailed, match=r"^bucket played GetObject a: "):
        tier.read("a", PART_BYTES, 20)


def test_a_read_takes_no_more_than_it_asked_for(service, tier):
    """The whole object is a volume of 30 GB in practice."""

    def sends_without_end(request, _key, data, _first, _last):
        request.send_response(200)
        request.send_header("Content-Length", str(1 << 40))
        request.end_headers()
        try:
            while True:
                request.wfile.write(data)
        except OSError:
            ended.set()

    ended = threading.Event()
    service.answer_get = sends_without_end
    with pytest.raises(TierFailed, match=r"bytes=5-24 was answered with status 200, range '' and 1099511627776 bytes"):
        tier.read("a", 5, 20)
    assert ended.wait(LIMIT_S), "the connection was closed"


def test_a_part_that_stops_coming_is_asked_for_again(service, tier, tmp_path):
    """And its bytes count once."""
    cut = []

    def cuts_once(request, key, data, first, last):
        if first == PART_BYTES and not cut:
            cut.append(first)
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            request.send_header("Content-Length", str(last - first + 1))
            request.end_headers()
            request.wfile.write(data[first : first + 100])
            request.close_connection = True
        else:
            service.send_range(request, key, data, first, last)

    service.answer_get = cuts_once
    told = []
    tier.download("a", tmp_path / "got", lambda *progress: told.append(progress))
    assert cut
    assert (tmp_path / "got").read_bytes() == OBJECT
    assert max(told) == (len(OBJECT), 100.0)


def test_a_caller_that_wants_no_more_ends_the_download(tier, tmp_path):
    class Enough(Exception):
        pass

    def progress(*_progress):
        raise Enough

    with pytest.raises(Enough):
        tier.download("a", tmp_path / "got", progress)


@pytest.mark.parametrize("answer", [ignores_ranges, refuses_one_part])
def test_a_move_to_disk_of_other_bytes_keeps_the_object(service, tmp_path, answer):
    tiers = Tiers({"s3": S3Tier})
    tiers.load([TierSettings("s3", "cold", service.properties())])
    files = TierFiles(tiers)
    store = open_at(tmp_path, files=files, tiers=files)
    node, volume, data = make_node(tmp_path, store), store.allocate_volume(VID), Random(4).randbytes(200_000)
    volume.write(Needle(needle_id=9, cookie=COOKIE, data=data))
    upload = pb.VolumeTierMoveDatToRemoteRequest(volume_id=VID, destination_backend_name=NAME)
    list(volume_tier_move_dat_to_remote(node, make_context(), upload))
    before = dict(service.objects)
    service.answer_get = answer
    with pytest.raises(RpcFailure):
        list(
            volume_tier_move_dat_from_remote(node, make_context(), pb.VolumeTierMoveDatFromRemoteRequest(volume_id=VID))
        )
    assert service.objects == before
    assert volume.is_tiered
    assert {path.name for path in tmp_path.glob(f"{VID}.*")} == {f"{VID}.idx", f"{VID}.vif"}
    service.answer_get = service.send_range
    read = volume.read(9, cookie=COOKIE)
    assert bytes(read.needle.data) == data
    read.release()
    store.close()


@pytest.mark.parametrize("endpoint", ["storage:9000", "http://storage:port", "http://[::1", "no url"])
def test_settings_of_a_master_of_which_no_client_can_be_made(endpoint):
    """A start that opens a volume of the tier goes on with the others."""
    tier = S3Tier(TierSettings("s3", "cold", (("bucket", "b"), ("endpoint", endpoint))))
    with pytest.raises(TierFailed):
        tier.read("key", 0, 8)
