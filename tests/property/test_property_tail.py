"""Writes, deletions, copies, tails, faults and reopenings in any order: both sides end needle for needle equal.

Two stores with a volume each. A mover has the destination fetch the volume by VolumeCopy, and tail the source from
where the copy says that it ends or from where it last knew both equal; a backup follows the source by incremental
copies.
Streams break at any message, the source is written to at any message, the volume is closed at any message.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from support.files import UnsyncedFiles
from support.stores import open_at

from native_handlers.format.needle import (
    FLAG_HAS_LAST_MODIFIED,
    FLAG_HAS_MIME,
    FLAG_HAS_NAME,
    FLAG_HAS_PAIRS,
    FLAG_HAS_TTL,
    FLAG_IS_CHUNK_MANIFEST,
    FLAG_IS_COMPRESSED,
    Needle,
)
from native_handlers.format.ttl import Ttl
from native_handlers.grpc import tail_sender
from native_handlers.grpc.context import RpcContext, RpcFailure
from native_handlers.grpc.copy_file import copy_file
from native_handlers.grpc.fetched_memory import FetchedMemory
from native_handlers.grpc.incremental_copy import volume_incremental_copy
from native_handlers.grpc.node import GrpcNode, NodeFacts
from native_handlers.grpc.state_keeper import StoreStateKeeper
from native_handlers.grpc.tail_receiver import volume_tail_receiver
from native_handlers.grpc.volume_copy import volume_copy
from native_handlers.grpc.volumes import read_volume_file_status
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.check import check_directory
from native_handlers.storage.model.errors import Deleted, NotFound
from native_handlers.storage.volume import file_reader
from native_handlers.storage.volume.append_log import append_time_ns

VID = 7
NEEDLE_IDS = range(1, 6)

needle_ids = st.sampled_from(NEEDLE_IDS)
# An empty payload is left out: its record is that of a deletion, and a destination takes it for a deletion.
payloads = st.one_of(*[st.binary(min_size=1, max_size=40)] * 4, st.integers(1, 3))
LARGE_BYTES = (2 << 20) + 77
COPY_PIECES = 4
"""The number of messages of .dat in a copy. The index and the description have one each, and each file has one more
request, which finds the end."""
copy_messages = st.integers(0, COPY_PIECES + 6)
all_flags = st.sets(
    st.sampled_from(
        [
            FLAG_IS_COMPRESSED,
            FLAG_HAS_NAME,
            FLAG_HAS_MIME,
            FLAG_HAS_LAST_MODIFIED,
            FLAG_HAS_TTL,
            FLAG_HAS_PAIRS,
            FLAG_IS_CHUNK_MANIFEST,
        ]
    )
).map(sum)
changes = st.lists(st.tuples(needle_ids, st.none() | payloads, all_flags), min_size=1, max_size=6)


class Broken(grpc.RpcError):
    """The error that a client gets when the line to its server is cut."""

    def code(self):
        return grpc.StatusCode.UNAVAILABLE

    def details(self):
        return "Socket closed"


class Line:
    """A source's messages as the destination gets them. `at(number)` is called before each and may raise Broken.
    `asked` is the number of the last message that was asked for; at the end it is the message that did not come.
    """

    def __init__(self, messages, at, numbers=None):
        self._messages, self._at = messages, at
        self._numbers = numbers or itertools.count()

    def __iter__(self):
        return self

    def __next__(self):
        self.asked = next(self._numbers)
        try:
            self._at(self.asked)
            return next(self._messages)
        except RpcFailure as failure:
            raise _told(failure) from failure

    def cancel(self):
        self._messages.close()


@contextmanager
def in_pieces(dat_bytes):
    """So many bytes are sent in `COPY_PIECES` messages.

    Only meanwhile: with the piece of a small volume, a large one would be a million messages.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_reader, "PIECE_BYTES", dat_bytes // COPY_PIECES + 1)
        yield


class SourceOfCopies:
    """The part of a source that VolumeCopy uses. Messages are numbered through: 0 is the status, then come those of the
    files. `needles` are the source's needles when it gave its status. It has no Ping, so writes during the copy are not
    fetched afterwards (test_grpc_copy_follow.py tests that).
    """

    def __init__(self, side, at):
        self._side, self._at = side, at
        self._numbers = itertools.count()
        self.ReadVolumeFileStatus = self
        self.needles = None

    def future(self, request, timeout=None):
        """The status, as a call that is under way."""
        self._request = request
        return self

    def result(self):
        self._at(next(self._numbers))
        try:
            status = read_volume_file_status(node_of(self._side.store), context(), self._request)
        except RpcFailure as failure:
            raise _told(failure) from failure
        self.needles = self._side.needles()
        return status

    @property
    def undecoded(self):
        return SimpleNamespace(CopyFile=self._copy_file)

    def _copy_file(self, request):
        return Line(copy_file(node_of(self._side.store), context(), request), self._at, self._numbers)

    @staticmethod
    def VolumeStatus(_request, timeout=None):  # noqa: N802  as the RPC is called
        return pb.VolumeStatusResponse(is_read_only=True)

    @staticmethod
    def Ping(_request, timeout=None):  # noqa: N802  as the RPC is called
        raise _told(RpcFailure("no Ping", grpc.StatusCode.UNIMPLEMENTED))

    def cancel(self):
        pass


def _told(failure):
    told = Broken(failure.message)
    told.code, told.details = lambda: failure.code, lambda: failure.message
    return told


class Side:
    """One server: a store in its own directory."""

    def __init__(self, name):
        self.directory = Path(tempfile.mkdtemp(prefix=f"tail-{name}-"))
        self.store = open_at(self.directory, files=UnsyncedFiles())

    @property
    def volume(self):
        return self.store.find_volume(VID)

    @property
    def dat_path(self):
        return self.directory / f"{VID}.dat"

    @property
    def dat(self):
        return self.dat_path.read_bytes()

    def change(self, needle_id, data, flags):
        """Writes a needle; deletes the needle if there are no data."""
        if data is None:
            self.store.get_volume(VID).delete(needle_id, needle_id, checksum=flags)
            return
        if isinstance(data, int):
            data = bytes([data]) * LARGE_BYTES
        needle = Needle(needle_id, needle_id, data, flags, b"name", b"text/x", 1_700_000_000, Ttl(9, 6), b"{}")
        self.store.get_volume(VID).write(needle)

    def needles(self):
        """All stored facts of the needles except their times."""
        return {needle_id: self._facts(needle_id) for needle_id in NEEDLE_IDS}

    def _facts(self, needle_id):
        try:
            read = self.store.get_volume(VID).read(needle_id, cookie=None)
        except (NotFound, Deleted):
            return None
        try:
            one = read.needle
            meta = (one.flags, one.name, one.mime, one.last_modified_s, one.ttl, one.pairs)
            return (one.cookie, bytes(one.data), one.checksum, one.size, *meta)
        finally:
            read.release()

    def last_append_ns(self):
        with self.volume.open_log() as log:
            if not log.row_count:
                return 0
            return append_time_ns(log, next(log.rows(log.row_count - 1)))

    def end(self):
        self.store.close()
        report = check_directory(self.directory)
        assert report.is_healthy, str(report)
        shutil.rmtree(self.directory)


def node_of(store, volume_servers=None):
    facts = NodeFacts("target", "target", 8080, "", "", "", ())
    masters = SimpleNamespace(holds=lambda *_: True)
    return GrpcNode(
        store=store,
        state=StoreStateKeeper(store),
        facts=facts,
        masters=masters,
        volume_servers=volume_servers,
        leave=None,
        fetched_memory=FetchedMemory(),
    )


def context():
    return RpcContext("127.0.0.1", 1, (), "", lambda: True, lambda _: True, lambda: None)


class FixedVolumeServer:
    """The `volume_servers` of a node: one server."""

    @staticmethod
    def is_self(_error):
        return False

    def __init__(self, client):
        self._client = client

    @contextmanager
    def open_volume_server(self, address):
        assert address == "source"
        yield self._client


class TailMachine(RuleBasedStateMachine):
    """The destination certainly has everything up to `since_ns`."""

    def __init__(self):
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(tail_sender, "ROUND_S", 0.0)
        self.source, self.target = Side("source"), Side("target")
        self.source.store.allocate_volume(VID)
        self.target.store.allocate_volume(VID)
        self.since_ns = 0
        self.backup = self.source.dat
        self.backup_ns, self.backup_needles = 0, self.source.needles()
        self.at = lambda number: None

    @contextmanager
    def open_volume_server(self, address):
        assert address == "source"
        self.line = None

        class Client:
            def VolumeTailSender(_, request):  # noqa: N802, N805  as the RPC is called; `self` is the machine
                messages = tail_sender.volume_tail_sender(node_of(self.source.store), context(), request)
                self.line = Line(messages, self.at)
                return self.line

        try:
            yield Client()
        finally:
            self.line.cancel()

    @staticmethod
    def is_self(_error):
        return False

    def follow(self, at=lambda number: None):
        """One VolumeTailReceiver from the time at which both are equal."""
        self.at = at
        request = pb.VolumeTailReceiverRequest(
            volume_id=VID, since_ns=self.since_ns, idle_timeout_seconds=1, source_volume_server="source"
        )
        volume_tail_receiver(node_of(self.target.store, self), context(), request)

    @staticmethod
    def end_of(run, at):
        """The code of the failure, or None."""
        try:
            run(at)
        except RpcFailure as failure:
            return failure.code
        return None

    def must_be_equal(self):
        assert self.target.needles() == self.source.needles()
        self.since_ns = self.source.last_append_ns()

    @rule(ops=changes)
    def change(self, ops):
        for op in ops:
            self.source.change(*op)

    @rule()
    def tail(self):
        self.follow()
        self.must_be_equal()

    @rule(ops=changes, first=st.integers(0, 4))
    def tail_while_it_is_written_to(self, ops, first):
        """A change at each message from `first` on. The tail ends when there was nothing new."""
        left = list(ops)
        last = 0

        def at(number):
            nonlocal last
            if number >= first and left:
                self.source.change(*left.pop(0))
                last = number

        self.follow(at)
        self.must_be_equal_unless_late(last, is_done=not left)

    @rule(ops=changes, when=st.integers(0, 4))
    def tail_while_the_source_is_opened_anew(self, ops, when):
        def at(number):
            if number == when:
                self.reopen(is_source=True)
                for op in ops:
                    self.source.change(*op)

        self.follow(at)
        self.must_be_equal_unless_late(when, is_done=True)

    def must_be_equal_unless_late(self, when, *, is_done):
        """Writes after the last heartbeat come too late."""
        if when == self.line.asked or not is_done:
            self.follow()
        self.must_be_equal()

    @rule(ops=changes, cut=st.integers(0, 5))
    def tail_that_breaks(self, ops, cut):
        """Nothing is promised then, except that a later tail from the same time completes the destination."""
        for op in ops:
            self.source.change(*op)

        def at(number):
            if number == cut:
                raise Broken

        code = self.end_of(self.follow, at)
        assert code in {None, grpc.StatusCode.UNAVAILABLE}
        if code is None:
            self.must_be_equal()

    @rule(ops=changes, when=st.integers(0, 5), is_source=st.booleans())
    def tail_while_a_volume_is_closed(self, ops, when, is_source):
        """The tail never ends as if it were complete."""
        side = self.source if is_source else self.target
        for op in ops:
            self.source.change(*op)
        was_closed = False

        def at(number):
            nonlocal was_closed
            if number == when:
                was_closed = True
                side.store.unmount_volume(VID)

        code = self.end_of(self.follow, at)
        assert code in {None, grpc.StatusCode.UNKNOWN}
        if was_closed:
            side.store.mount_volume(VID)
            assert side.store.findings == []
        if code is None:
            self.must_be_equal()

    @rule(is_source=st.booleans())
    def reopen(self, is_source):
        side = self.source if is_source else self.target
        side.store.unmount_volume(VID)
        side.store.mount_volume(VID)
        assert side.store.findings == []

    def fetch(self, at=lambda number: None):
        """One VolumeCopy, in some messages a file. The destination has the source's state at the first message."""
        source = SourceOfCopies(self.source, at)
        request = pb.VolumeCopyRequest(volume_id=VID, source_data_node="source")
        with in_pieces(self.source.dat_path.stat().st_size):
            *_, last = volume_copy(node_of(self.target.store, FixedVolumeServer(source)), context(), request)
        assert self.target.needles() == source.needles
        assert self.target.store.findings == []
        self.since_ns = last.last_append_at_ns

    @rule()
    def copy(self):
        self.fetch()

    @rule(ops=changes, first=copy_messages)
    def copy_while_it_is_written_to(self, ops, first):
        """A change at each message from `first` on. Writes since the copy began are tailed, now or later."""
        left = list(ops)

        def at(number):
            if number >= first and left:
                self.source.change(*left.pop(0))

        self.fetch(at)

    @rule(ops=changes, when=copy_messages)
    def copy_while_the_source_is_opened_anew(self, ops, when):
        def at(number):
            if number == when:
                self.reopen(is_source=True)
                for op in ops:
                    self.source.change(*op)

        self.fetch(at)

    @rule(ops=changes, when=copy_messages, is_closed=st.booleans())
    def copy_that_fails(self, ops, when, is_closed):
        """A cut line or a closed source: the volume is as before, and nothing of the copy is left. The next copy is
        whole.
        """
        before, was_reached, left = self.target.needles(), False, list(ops)

        def at(number):
            nonlocal was_reached
            if number < when and left:
                self.source.change(*left.pop(0))
            if number == when:
                was_reached = True
                if not is_closed:
                    raise Broken
                self.source.store.unmount_volume(VID)

        code = self.end_of(self.fetch, at)
        if is_closed and was_reached:
            self.source.store.mount_volume(VID)
        if code is None:
            # A closed source finishes the file that it had begun; this was the last one, or the close came too late.
            assert is_closed or not was_reached
            return
        is_refused = when == 0 and not is_closed
        assert was_reached
        assert code is (grpc.StatusCode.UNAVAILABLE if is_refused else grpc.StatusCode.UNKNOWN)
        assert self.target.needles() == before
        assert {path.suffix for path in self.target.directory.glob(f"{VID}.*")} <= {".dat", ".idx", ".vif"}
        self.fetch()

    @rule(ops=changes, when=st.integers(0, 2))
    def back_up(self, ops, when):
        """As `weed backup`: appends the bytes since its last time."""
        request = pb.VolumeIncrementalCopyRequest(volume_id=VID, since_ns=self.backup_ns)
        self.backup_ns, self.backup_needles = self.source.last_append_ns(), self.source.needles()
        end = self.source.volume.size_bytes
        with in_pieces(max(end - len(self.backup), 0)):
            for number, piece in enumerate(volume_incremental_copy(node_of(self.source.store), context(), request)):
                self.backup += piece.file_content
                if number == when:
                    for op in ops:
                        self.source.change(*op)
        assert self.backup == self.source.dat[:end]

    @rule()
    def restore(self):
        """The backup, without an index, opens as the same volume."""
        restored = Side("backup")
        (restored.directory / f"{VID}.dat").write_bytes(self.backup)
        (restored.directory / f"{VID}.idx").touch()
        restored.store.mount_volume(VID)
        assert restored.needles() == self.backup_needles
        restored.end()

    def teardown(self):
        self.follow()
        self.must_be_equal()
        self.source.end()
        self.target.end()
        self.patch.undo()


TestTail = pytest.mark.slow(TailMachine.TestCase)
"""Slow: each step of each example follows a server over gRPC."""
TestTail.settings = settings(stateful_step_count=15, suppress_health_check=[HealthCheck.too_slow], deadline=None)
