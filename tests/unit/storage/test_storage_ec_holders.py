"""Holders of shards, and look-ups, that fail: how long they are avoided, and when they are asked nevertheless."""

import threading

import pytest
from support.coded_volumes import FakeRemote, open_coded_volume
from support.files import PlannedFiles
from support.waiting import LIMIT_S

from native_handlers.format.needle import Needle
from native_handlers.storage.erasure_coding.errors import EcRefused
from native_handlers.storage.erasure_coding.layout import DEFAULT_RATIO
from native_handlers.storage.erasure_coding.remote import (
    FRESH_WITH_ALL_S,
    FRESH_WITH_SOME_S,
    HOLDER_AVOIDED_S,
    LOOKUP_AVOIDED_S,
    RecentFailures,
    ServerSilent,
    ServerUnreachable,
    ShardLocations,
    ShardUnreachable,
)

VID = 7
COOKIE = 5
DATA = b"content" * 1000


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "coded"


@pytest.fixture
def store(directory, clock):
    """One needle, in shard 0."""
    made = open_coded_volume(directory, VID, Needle(1, COOKIE, data=DATA), files=PlannedFiles())
    made.ec_reader.locations = ShardLocations(clock.seconds)
    yield made
    made.close()


@pytest.fixture
def place(store, directory):
    """Moves shards to other servers, or has them lost."""
    remote = store.ec_reader.remote = FakeRemote({})

    def move(shards, *addresses):
        for shard in shards:
            store.ec.unmount(VID, shard)
            for address in addresses:
                content = (directory / f"{VID}.ec{shard:02d}").read_bytes()
                remote.shards.setdefault(address, {})[shard] = content
        return remote

    return move


def read(store):
    assert store.ec_reader.read_needle(VID, 1, COOKIE).data == DATA


def asked(remote, address):
    return [wanted.shard_id for one, wanted in remote.requests if one == address]


@pytest.mark.slow
def test_a_holder_that_failed_is_avoided_and_then_asked_again(store, place, clock):
    """Slow: codes a volume."""
    remote = place([0], "a")
    place(range(1, 5), "b")
    remote.silent = {"a"}
    for _ in range(5):
        read(store)
    assert asked(remote, "a") == [0]
    clock.advance(HOLDER_AVOIDED_S - 1)
    read(store)
    assert asked(remote, "a") == [0]
    clock.advance(2)
    for _ in range(5):
        read(store)
    assert asked(remote, "a") == [0, 0]
    remote.silent = set()
    clock.advance(HOLDER_AVOIDED_S + 1)
    for _ in range(3):
        read(store)
    assert asked(remote, "a") == [0] * 5, "a success ends that it is avoided"


def test_other_holders_are_asked_first(store, place):
    remote = place(range(13), "a", "b")
    remote.silent = {"a"}
    for _ in range(3):
        read(store)
    assert asked(remote, "a") == [0]
    assert asked(remote, "b") == [0] * 3


def test_a_holder_that_failed_is_asked_where_the_shard_cannot_be_computed(store, place):
    remote = place([0], "a")
    place(range(1, 5))
    remote.silent = {"a"}
    with pytest.raises(ShardUnreachable, match="only 9 shards available"):
        read(store)
    remote.silent = set()
    read(store)
    assert asked(remote, "a")[-1] == 0


def test_a_holder_that_failed_is_asked_where_no_other_shards_suffice(store, place):
    """Shard 0 is lost. What it is computed from is at the holder that failed."""
    remote = place(range(1, 8), "a")
    place([0, 8, 9])
    remote.silent = {"a"}
    with pytest.raises(ShardUnreachable):
        read(store)
    remote.silent = set()
    remote.requests.clear()
    read(store)
    assert len(asked(remote, "a")) == 6


def test_a_lost_shard_is_computed_from_holders_that_do_not_fail(store, place):
    remote = place(range(1, 4), "a")
    place(range(4, 7), "b")
    place([0])
    remote.silent = {"a"}
    for _ in range(3):
        read(store)
    assert asked(remote, "a") == [1, 2, 3], "at the same time, by the first read"
    assert asked(remote, "b") == [4, 5, 6] * 3


def test_one_read_does_not_wait_for_each_shard_of_a_server_that_is_silent(store, place):
    """9 shards are missing. A second request for one of them takes as long again as the first nine at the same time."""
    remote = place(range(1, 12), "a")
    place([0, 12])
    remote.silent = {"a"}
    with pytest.raises(ShardUnreachable, match="only 1 shards available"):
        read(store)
    assert asked(remote, "a") == [*range(1, 10)] * 2, "and once more after asking the master"


def test_an_error_that_a_holder_answers_is_about_one_shard(store, place, clock):
    remote = place(range(13), "a")
    content = remote.shards["a"].pop(0)
    holders = {shard: ["a"] for shard in range(13)}
    remote.holders = lambda _volume_id: holders
    for _ in range(3):
        read(store)
    assert remote.read.count(0) == 1
    assert len(remote.requests) == 1 + 3 * 9
    remote.shards["a"][0] = content
    clock.advance(HOLDER_AVOIDED_S + 1)
    read(store)
    assert remote.read.count(0) == 2
    assert len(remote.requests) == 2 + 3 * 9


def test_a_server_that_answers_is_not_avoided_any_more(clock):
    known = ShardLocations(clock.seconds)
    known.note_failure("a", VID, 1, ServerUnreachable("no answer"))
    assert known.has_failed("a", VID, 2)
    known.note_failure("a", VID, 1, ShardUnreachable("not found"))
    assert known.has_failed("a", VID, 1)
    assert not known.has_failed("a", VID, 2)
    assert not known.has_failed("a", VID + 1, 1)
    known.note_success("a", VID, 1)
    assert not known.has_failed("a", VID, 1)


def test_one_reader_tries_again_and_the_others_do_not(store, place, clock):
    """A holder that hangs would hold all threads otherwise, each time that it is tried again."""
    remote = place([0], "a")
    place(range(1, 5), "b")
    remote.silent = {"a"}
    read(store)
    clock.advance(HOLDER_AVOIDED_S + 1)
    begin, others = remote.begin_read, []

    def begins(address, wanted):
        if address == "a" and not others:
            others.append(1)
            read(store)
        return begin(address, wanted)

    remote.begin_read = begins
    read(store)
    assert others
    assert asked(remote, "a") == [0, 0]


def test_shards_whose_holders_failed_have_the_master_asked_earlier(store, clock):
    """They may have moved."""
    remote = FakeRemote({"a": dict.fromkeys(range(7), b""), "b": dict.fromkeys(range(7, 14), b"")})
    known = store.ec_reader.locations
    known.get(remote, VID, DEFAULT_RATIO)
    clock.advance(FRESH_WITH_SOME_S + 1)
    known.get(remote, VID, DEFAULT_RATIO)
    assert remote.asked == 1
    known.note_failure("a", VID, 3, ShardUnreachable("not found"))
    known.get(remote, VID, DEFAULT_RATIO)
    assert remote.asked == 2
    known.get(remote, VID, DEFAULT_RATIO)
    assert remote.asked == 2
    clock.advance(12)
    known.note_failure("a", VID, 3, ServerUnreachable("no answer"))
    known.get(remote, VID, DEFAULT_RATIO)
    assert remote.asked == 3


def test_a_scrub_asks_holders_that_failed_before_it(store, place, clock):
    remote = place(range(13), "a")
    remote.silent = {"a"}
    with pytest.raises(ShardUnreachable):
        read(store)
    remote.silent = set()
    clock.advance(1)
    found = store.ec_work.scrubber(store.ec_reader, store.ec.find(VID), lambda _count: None).full(checks_deleted=True)
    assert not found.is_broken


def test_a_deletion_goes_to_a_holder_that_answers_first(store, place):
    remote = place([0], "a", "b")
    deleted = []

    def delete(address, *_rest):
        deleted.append(address)
        if address == "a":
            raise ServerUnreachable("no answer")

    remote.delete = delete
    for _ in range(2):
        store.ec_reader.delete_needle(VID, 1, COOKIE)
    assert deleted == ["a", "b", "b"]
    assert store.ec_reader.locations.has_failed("a", VID, 5)


def test_a_refused_deletion_says_nothing_of_reads(store, place):
    remote = place([0], "a")

    def delete(*_call):
        raise ShardUnreachable("no space left on device")

    remote.delete = delete
    with pytest.raises(ShardUnreachable, match="no space"):
        store.ec_reader.delete_needle(VID, 1, COOKIE)
    assert not store.ec_reader.locations.has_failed("a", VID, 0)


class TestAHolderThatHangs:
    """The only holder of the shard in which the needle begins. A deletion there takes its thread for half a minute."""

    @pytest.fixture
    def deletions(self, store, place):
        """The addresses that were asked. `error` is their answer."""
        remote = place([0], "a")
        place([1], "b")
        asked = []

        def delete(address, *_rest):
            asked.append(address)
            if self.error is not None:
                raise self.error

        remote.delete = delete
        self.error = ServerSilent("deadline exceeded")
        return asked

    def delete(self, store):
        store.ec_reader.delete_needle(VID, 1, COOKIE)

    def test_is_not_asked_again_at_once(self, store, deletions):
        for text in (r"^deadline exceeded", r"^not asked, .*: deadline exceeded"):
            with pytest.raises(ShardUnreachable, match=text):
                self.delete(store)
        assert deletions == ["a"]

    def test_is_asked_later(self, store, deletions, clock):
        with pytest.raises(ShardUnreachable):
            self.delete(store)
        clock.advance(HOLDER_AVOIDED_S + 1)
        self.error = None
        self.delete(store)
        self.delete(store)
        assert deletions == ["a"] * 3

    def test_is_asked_by_one_deletion_then(self, store, deletions, clock):
        with pytest.raises(ShardUnreachable):
            self.delete(store)
        clock.advance(HOLDER_AVOIDED_S + 1)
        delete, others = store.ec_reader.remote.delete, []

        def delete_while_others_do(*call):
            if not others:
                others.append(1)
                with pytest.raises(ShardUnreachable, match="not asked"):
                    self.delete(store)
            delete(*call)

        store.ec_reader.remote.delete = delete_while_others_do
        with pytest.raises(ShardUnreachable, match=r"^deadline exceeded"):
            self.delete(store)
        assert deletions == ["a", "a"]

    def test_may_answer_reads(self, store, deletions):
        """They come from memory, and the deletion waits for a disk."""
        with pytest.raises(ShardUnreachable):
            self.delete(store)
        store.ec_reader.locations.note_success("a", VID, 0)
        with pytest.raises(ShardUnreachable, match="not asked"):
            self.delete(store)
        assert deletions == ["a"]

    def test_is_known_from_reads(self, store, deletions):
        store.ec_reader.locations.note_failure("a", VID, 0, ServerSilent("deadline exceeded"))
        with pytest.raises(ShardUnreachable, match="not asked"):
            self.delete(store)
        store.ec_reader.locations.note_success("a", VID, 0)
        self.error = None
        self.delete(store)
        assert deletions == ["a"]

    def test_is_another_one_than_one_that_refuses_connections(self, store, deletions):
        """That takes no time, and the server may have come back."""
        self.error = ServerUnreachable("connection refused")
        for _ in range(2):
            with pytest.raises(ShardUnreachable, match="connection refused"):
                self.delete(store)
        assert deletions == ["a", "a"]


def test_the_memory_of_failures_is_bounded(clock):
    failures = RecentFailures(30, clock.seconds, at_most=3)
    for number in (1, 2, 3, 1, 4):
        failures.note(number, EcRefused(f"error {number}"))
    assert len(failures) == 3
    assert [failures.find(number) for number in range(1, 5)] == ["error 1", None, "error 3", "error 4"]


def test_failures_are_noted_from_any_thread():
    failures = RecentFailures(30, at_most=50)
    errors = []

    def work():
        try:
            for number in range(2000):
                failures.note(number % 100, EcRefused("error"))
                failures.begin(number % 70)
                failures.find(number % 90)
                failures.clear(number % 7)
        except BaseException as error:  # noqa: BLE001  looked at below
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(failures) <= 50


# ---- look-ups


def test_a_read_of_a_lost_shard_asks_nobody_where_there_are_enough_others_here(store, place):
    """A master that hangs must not hold it up."""
    remote = place([0])
    remote.is_away = True
    for _ in range(3):
        read(store)
    assert remote.asked == 0
    place(range(1, 5))
    with pytest.raises(ShardUnreachable):
        read(store)
    assert remote.asked == 1


def test_a_holder_that_is_known_is_asked_where_there_are_enough_others_here(store, place):
    remote = place([0], "a")
    store.ec_reader.locations.get(remote, VID, DEFAULT_RATIO)
    read(store)
    assert (remote.asked, remote.read) == (1, [0])


def test_the_master_is_asked_where_shards_here_cannot_be_read(store, place):
    remote = place([0], "a")
    here = store.ec_reader.read_here

    def read_here(volume, shard_id, *args, **how):
        return shard_id > 5 and here(volume, shard_id, *args, **how)

    store.ec_reader.read_here = read_here
    read(store)
    assert (remote.asked, remote.read) == (1, [0])


def test_after_a_look_up_that_failed_the_master_is_not_asked_for_some_seconds(store, place, clock):
    remote = place(range(13), "a")
    read(store)
    remote.is_away = True
    clock.advance(FRESH_WITH_ALL_S + 1)
    for _ in range(5):
        read(store)
    assert remote.asked == 2, "older holders are known"
    clock.advance(LOOKUP_AVOIDED_S + 1)
    for _ in range(5):
        read(store)
    assert remote.asked == 3
    remote.is_away = False
    clock.advance(LOOKUP_AVOIDED_S + 1)
    for _ in range(5):
        read(store)
    assert remote.asked == 4


def test_a_master_that_is_silent_is_not_asked_for_other_volumes(clock):
    known, remote = ShardLocations(clock.seconds), FakeRemote({"a": dict.fromkeys(range(14), b"")})
    for volume_id in (1, 2):
        known.get(remote, volume_id, DEFAULT_RATIO)
    clock.advance(FRESH_WITH_ALL_S + 1)
    remote.is_away = True
    for volume_id in (1, 2):
        assert known.get(remote, volume_id, DEFAULT_RATIO)[3] == ["a"]
    assert remote.asked == 3
    with pytest.raises(ShardUnreachable, match="the master is away"):
        known.get(remote, 3, DEFAULT_RATIO)
    assert remote.asked == 3


def test_a_master_that_does_not_know_one_volume_is_asked_for_others(clock):
    known, remote = ShardLocations(clock.seconds), FakeRemote({"a": dict.fromkeys(range(14), b"")})
    holders = remote.holders

    def but_one(volume_id):
        if volume_id == 1:
            remote.asked += 1
            raise ShardUnreachable("ec volume 1 not found")
        return holders(volume_id)

    remote.holders = but_one
    for _ in range(2):
        with pytest.raises(ShardUnreachable, match="ec volume 1 not found"):
            known.get(remote, 1, DEFAULT_RATIO)
    assert remote.asked == 1
    assert known.get(remote, 2, DEFAULT_RATIO)


def test_a_read_that_cannot_do_without_asks_the_master_although_it_failed(store, place, clock):
    remote = place(range(13), "a")
    remote.is_away = True
    with pytest.raises(ShardUnreachable):
        read(store)
    remote.is_away = False
    clock.advance(1)
    read(store)


class HangingMaster(FakeRemote):
    """A master that answers, or fails, when the test says so."""

    def __init__(self, shards):
        super().__init__(shards)
        self.is_asked, self.may_answer = threading.Event(), threading.Event()

    def holders(self, volume_id):
        self.is_asked.set()
        assert self.may_answer.wait(LIMIT_S)
        return super().holders(volume_id)


def begin(work):
    """Does `work` in a thread. Returns a function that waits for it and returns its result or its error."""
    results = []

    def run():
        try:
            results.append(work())
        except ShardUnreachable as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def end():
        thread.join(LIMIT_S)
        return results[0]

    return end


def test_an_answer_that_names_nobody_is_an_answer(clock):
    known, remote = ShardLocations(clock.seconds), FakeRemote({})
    assert [known.get(remote, VID, DEFAULT_RATIO) for _ in range(3)] == [{}] * 3
    assert remote.asked == 1


def test_readers_use_older_holders_while_one_asks(clock):
    known, remote = ShardLocations(clock.seconds), HangingMaster({"a": dict.fromkeys(range(14), b"")})
    remote.may_answer.set()
    known.get(remote, VID, DEFAULT_RATIO)
    clock.advance(FRESH_WITH_ALL_S + 1)
    remote.may_answer.clear()
    remote.is_asked.clear()
    asking = begin(lambda: known.get(remote, VID, DEFAULT_RATIO))
    assert remote.is_asked.wait(LIMIT_S)
    others = [begin(lambda: known.get(remote, VID, DEFAULT_RATIO)[0]) for _ in range(20)]
    assert [end() for end in others] == [["a"]] * 20
    remote.shards = {"b": dict.fromkeys(range(14), b"")}
    remote.may_answer.set()
    assert asking()[0] == ["b"]
    assert remote.asked == 2


@pytest.mark.parametrize("is_anew", [False, True])
def test_readers_who_know_nothing_wait_for_one_look_up(clock, is_anew):
    """They do not wait for one another's, also where an answer from before is not good enough."""
    known, remote = ShardLocations(clock.seconds), HangingMaster({})
    remote.is_away = True
    since_s = known.now_s() if is_anew else None
    ends = [begin(lambda: known.get(remote, VID, DEFAULT_RATIO, since_s=since_s)) for _ in range(20)]
    assert remote.is_asked.wait(LIMIT_S)
    remote.may_answer.set()
    assert [str(end()) for end in ends] == ["the master is away"] * 20
    assert remote.asked == 1
