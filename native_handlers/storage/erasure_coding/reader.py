"""Reads and deletes needles of erasure-coded volumes.

A range is read from the shard that is open here, else from a server that holds the shard. Else it is computed from the
same range of as many other shards as there are data shards, local ones first. Only needed bytes are read. A long range
is received and computed in pieces, so that a read holds few bytes beside the needle.

Source: weed/storage/store_ec.go, store_ec_delete.go.
"""

from __future__ import annotations

import logging
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from native_handlers.arrays import np
from native_handlers.format.errors import Corrupt, SizeMismatch, Truncated
from native_handlers.format.needle import actual_size, parse_needle, parse_needle_header
from native_handlers.format.types import to_bytes_offset
from native_handlers.storage.erasure_coding.bounds import EcBounds
from native_handlers.storage.erasure_coding.errors import EcDeleteRefused, NotAllHere
from native_handlers.storage.erasure_coding.galois import recovery_matrix
from native_handlers.storage.erasure_coding.kernel import multiply
from native_handlers.storage.erasure_coding.remote import (
    ServerSilent,
    ServerUnreachable,
    ShardLocations,
    ShardRange,
    ShardUnreachable,
)
from native_handlers.storage.model.errors import (
    CookieMismatch,
    Deleted,
    DiskUnavailable,
    NotFound,
    StorageError,
    VolumeNotFound,
)
from native_handlers.storage.system.buffer_pool import fresh_memory
from native_handlers.storage.system.files import NotCached

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from native_handlers.format.idx import IdxEntry
    from native_handlers.format.needle import Needle
    from native_handlers.storage.directory.location import DiskLocation
    from native_handlers.storage.erasure_coding.ec_set import EcVolumeSet
    from native_handlers.storage.erasure_coding.ec_volume import EcVolume
    from native_handlers.storage.erasure_coding.layout import Interval
    from native_handlers.storage.erasure_coding.remote import PendingRange, RemoteShards

_log = logging.getLogger(__name__)
CACHED_BYTES = 256 << 10
"""A larger needle is not read on the event loop even where memory holds it: copying and checking it takes too long."""
RECEIVED_BYTES = 4 << 20
"""How much of a shard is requested from its holder at once."""
RECOVERED_BYTES = 1 << 20
"""How much of a shard is computed at once, from as much of each of ten others."""


class ReadMemory(NamedTuple):
    """How many bytes the read of a needle holds at most, without and with other servers and lost shards."""

    here_bytes: int
    elsewhere_bytes: int


class EcReader:
    """Safe from any thread. With `remote` None this server stands alone, and shards that are not here are lost.

    Attributes:
        locations: the servers that hold the shards, as the master last named them.
        bounds: what callers have a share of while they read or delete a needle, see `memory_of`.
    """

    def __init__(self, ec: EcVolumeSet) -> None:
        self._ec = ec
        self.remote: RemoteShards | None = None
        self.locations = ShardLocations()
        self.bounds = EcBounds()
        for location in ec.locations:
            location.health.add_listener(partial(self._note_service, location))
            if location.is_unavailable:
                self._note_service(location, is_out=True)

    def _note_service(self, location: DiskLocation, is_out: bool) -> None:  # noqa: FBT001  as a listener gets it
        """Work that waits for room ends where its disk goes out of service."""
        if is_out:
            problem = location.health.problem
            self.bounds.put_out(location.disk_id, lambda: DiskUnavailable(location.path, problem))
        else:
            self.bounds.take_back(location.disk_id)

    def read_needle(
        self,
        volume_id: int,
        needle_id: int,
        cookie: int | None,
        *,
        cached_only: bool = False,
        here_only: bool = False,
        volume: EcVolume | None = None,
    ) -> Needle:
        """The whole needle, its checksum verified. As upstream, the TTL is not checked.

        Args:
            cookie: None accepts any cookie.
            volume: the volume where the caller has looked it up.
            cached_only: reads only bytes in memory, of local shards, up to `CACHED_BYTES`.
            here_only: reads only local shards, and computes nothing.

        Raises:
            VolumeNotFound, VolumeClosed, NotFound, Deleted, CookieMismatch.
            StorageError, FormatError, OSError: too few shards can be read, or they are damaged. Damage is reported.
            NotCached: `cached_only`, and that is not enough.
            NotAllHere: `cached_only` or `here_only`, and a shard is not here, or cannot be read.
        """
        volume = self._volume(volume_id, volume)
        entry = volume.find(needle_id, cached_only=cached_only)
        if entry is None:
            raise NotFound(volume_id, needle_id)
        if entry.size < 0:
            raise Deleted(volume_id, needle_id)
        length = actual_size(entry.size, volume.version)
        if cached_only and length > CACHED_BYTES:
            raise NotCached
        view, at = fresh_memory(length), 0
        # The list is made before the first read: while another server is asked, the volume may be closed, and a closed
        # volume no longer knows its layout.
        for interval in list(volume.layout.locate(to_bytes_offset(entry.offset), length)):
            part = view[at : at + interval.length_bytes]
            if not self.read_here(volume, interval.shard_id, interval.offset_bytes, part, cached_only=cached_only):
                if cached_only or here_only:
                    raise NotAllHere
                self._read_interval(volume, needle_id, interval, part)
            at += interval.length_bytes
        try:
            needle = _parsed(volume, needle_id, entry, view)
        except (Corrupt, Truncated) as error:
            volume.damage.found(needle_id, error)
            raise
        if cookie is not None and needle.cookie != cookie:
            raise CookieMismatch(needle.cookie, cookie)
        return needle

    def memory_of(self, volume: EcVolume, needle_id: int, *, cached_only: bool = False) -> ReadMemory:
        """The memory that `read_needle` will hold; none for a needle that is absent or deleted.

        Raises:
            VolumeClosed, StorageError, OSError.
            NotCached: `cached_only`, and memory does not hold the needed part of the index.
        """
        self._ec.check_readable(volume)
        entry = volume.find(needle_id, cached_only=cached_only)
        if entry is None or entry.size < 0:
            return ReadMemory(0, 0)
        length = actual_size(entry.size, volume.version)
        # At its end a read has the needle twice, as a record and as content.
        here_bytes = 2 * length
        return ReadMemory(here_bytes, here_bytes + volume.ratio.data * min(length, RECOVERED_BYTES))

    def read_directly(
        self, volume: EcVolume, needle_id: int, interval: Interval, *, since_s: float
    ) -> memoryview | None:
        """A range from its shard, here or at a holder; None where neither returns it. Computes nothing.

        Args:
            since_s: holders that the master named before are not used, see `ShardLocations.get`. Holders that have
                failed since are not asked.

        Raises Deleted: a holder has the needle deleted.
        """
        part = fresh_memory(interval.length_bytes)
        if self.read_here(volume, interval.shard_id, interval.offset_bytes, part):
            return part
        shard_id, known = interval.shard_id, self.locations
        holders = self._holders(volume, since_s)
        addresses = [
            address
            for address in chain(*self.elsewhere(volume, shard_id, holders))
            if not known.has_failed(address, volume.id, shard_id, since_s)
        ]
        count = self._read_there(volume, needle_id, interval, part, addresses)
        return part if count == len(part) else None

    def delete_needle(
        self,
        volume_id: int,
        needle_id: int,
        cookie: int,
        volume: EcVolume | None = None,
        *,
        is_exact: bool = False,
    ) -> int:
        """Deletes a needle at one server that holds the shard in which the needle begins, as upstream. Returns the size
        of its body.

        Args:
            cookie: 0 for any cookie, unless `is_exact`.
            volume: the volume where the caller has looked it up.

        Raises:
            As `read_needle`; EcDeleteRefused for another cookie; StorageError where no server with a shard could be
            reached.
        """
        needle = self.read_needle(volume_id, needle_id, None, volume=volume)
        if (cookie or is_exact) and cookie != needle.cookie:
            raise EcDeleteRefused(needle.cookie, cookie)
        volume = self._volume(volume_id)  # Opened anew, perhaps, while others were asked for the needle.
        entry = volume.find(needle_id)
        if entry is None:
            raise NotFound(volume_id, needle_id)
        length = actual_size(max(0, entry.size), volume.version)
        first = next(volume.layout.locate(to_bytes_offset(entry.offset), length)).shard_id
        holders = self._holders(volume, self.locations.now_s())
        has_home = self._delete_at(volume, holders, first, needle_id)
        if not has_home:
            others = (shard for shard in range(volume.ratio.total) if shard != first)
            if not any(self._delete_quietly(volume, holders, shard, needle_id) for shard in others):
                raise ShardUnreachable(f"ec shard {volume_id}.{first}: ec shard missing")
        return needle.size

    def _delete_quietly(self, volume: EcVolume, holders: dict[int, list[str]], shard_id: int, needle_id: int) -> bool:
        try:
            return self._delete_at(volume, holders, shard_id, needle_id)
        except (StorageError, OSError) as error:
            _log.warning("deleting %x from ec shard %d.%d: %s", needle_id, volume.id, shard_id, error)
            return False

    def _delete_at(self, volume: EcVolume, holders: dict[int, list[str]], shard_id: int, needle_id: int) -> bool:
        """Deletes the needle at one holder of the shard. Returns whether the shard has a holder. Raises where each of
        them failed. One that hung a moment ago is not asked: it would take this thread for as long again.
        """
        remote = self.remote
        addresses = holders.get(shard_id, [])
        is_here = self._ec.find_shard(volume.id, shard_id, volume.encode_ts_ns) is not None
        if is_here and (remote is None or not addresses or any(map(remote.is_self, addresses))):
            self._ec.delete(volume, needle_id)
            return True
        failure: ShardUnreachable | None = None
        for address in chain(*self.elsewhere(volume, shard_id, holders)):
            if remote is None:
                continue
            try:
                self.locations.check_answers(address, volume.id)
            except ServerSilent as error:
                failure = failure or error
                continue
            try:
                remote.delete(address, volume.id, volume.collection, needle_id, volume.version)
            except ShardUnreachable as error:
                self.locations.note_deletion(address, volume.id, shard_id, error)
                failure = error
                continue
            self.locations.note_deletion(address, volume.id, shard_id, None)
            return True
        if failure is not None:
            raise failure
        return False

    def elsewhere(self, volume: EcVolume, shard_id: int, holders: dict[int, list[str]]) -> tuple[list[str], list[str]]:
        """The other servers that hold a shard: those to ask first, and those that failed a short while ago."""
        parted: tuple[list[str], list[str]] = [], []
        for address in holders.get(shard_id, []):
            if self.remote is not None and not self.remote.is_self(address):
                parted[self.locations.has_failed(address, volume.id, shard_id)].append(address)
        return parted

    def _volume(self, volume_id: int, found: EcVolume | None = None) -> EcVolume:
        volume = self._ec.find(volume_id) if found is None else found
        if volume is None:
            raise VolumeNotFound(volume_id, prefix="ec shard")
        self._ec.check_readable(volume)
        return volume

    def _holders(self, volume: EcVolume, since_s: float | None = None) -> dict[int, list[str]]:
        """The holders by shard; empty where the master cannot be asked. Where the shards here are enough for any range,
        the master is not asked without `since_s`, see `ShardLocations.get`.
        """
        if self.remote is None:
            return {}
        if since_s is None and self._has_enough_here(volume):
            return self.locations.known(volume.id, volume.ratio)
        try:
            return self.locations.get(self.remote, volume.id, volume.ratio, since_s=since_s)
        except ShardUnreachable as error:
            _log.warning("%s", error)
            return {}

    def _has_enough_here(self, volume: EcVolume) -> bool:
        """Whether as many shards are open here as make the data."""
        shards: set[int] = set()
        for one in self._ec.copies(volume.id):
            if self._is_usable(volume, one):
                shards.update(one.shards)
        return len(shards) >= volume.ratio.data

    def _is_usable(self, volume: EcVolume, other: EcVolume) -> bool:
        """Whether the shards of `other`, which is on any disk, are read for `volume`."""
        is_same_coding = not volume.encode_ts_ns or other.encode_ts_ns == volume.encode_ts_ns
        return is_same_coding and self._ec.is_in_service(other)

    # ---- a range

    def _read_interval(self, volume: EcVolume, needle_id: int, interval: Interval, view: memoryview) -> None:
        """Fills `view` with a range whose shard is not here."""
        started_s = self.locations.now_s()
        try:
            self._read_elsewhere(volume, needle_id, interval, view, self._holders(volume))
        except ShardUnreachable:
            # Shards move: other servers may hold them by now.
            if not self.read_here(volume, interval.shard_id, interval.offset_bytes, view):
                self._read_elsewhere(volume, needle_id, interval, view, self._holders(volume, started_s))

    def _read_elsewhere(
        self, volume: EcVolume, needle_id: int, interval: Interval, view: memoryview, holders: dict[int, list[str]]
    ) -> None:
        """Fills `view` with what a holder returns of the range, and computes the rest. A holder that failed a short
        while ago is asked where that fails. Raises Deleted, ShardUnreachable.
        """
        first, last = self.elsewhere(volume, interval.shard_id, holders)
        done = self._read_there(volume, needle_id, interval, view, first)
        if done == interval.length_bytes:
            return
        try:
            self._recover(volume, needle_id, interval.part(done), view[done:], holders)
        except ShardUnreachable:
            done += self._read_there(volume, needle_id, interval.part(done), view[done:], last)
            if done < interval.length_bytes:
                raise

    def read_here(
        self, volume: EcVolume, shard_id: int, offset: int, view: memoryview, *, cached_only: bool = False
    ) -> bool:
        """Reads the range from a local shard. Returns whether all of it was read; a shard of another encoding is not
        used.
        """
        found = self._ec.find_shard(volume.id, shard_id, volume.encode_ts_ns)
        if found is None or not self._is_usable(volume, found[0]):
            return False
        try:
            return found[1].read_into(view, offset, cached_only=cached_only)
        except OSError as error:
            _log.warning("read local ec shard %d.%d at %d: %s", volume.id, shard_id, offset, error)
            return False

    def _read_there(
        self, volume: EcVolume, needle_id: int, interval: Interval, view: memoryview, addresses: Iterable[str]
    ) -> int:
        """Fills `view` from the holders of the shard, and returns how many bytes at its beginning they returned. A
        holder that fails is not asked again. Raises Deleted.
        """
        remote, shard_id, done = self.remote, interval.shard_id, 0
        for address in addresses:
            if remote is None:
                continue
            try:
                while done < interval.length_bytes:
                    piece = interval.part(done, RECEIVED_BYTES)
                    self.locations.begin(address, volume.id, shard_id)
                    data = remote.begin_read(address, _range(volume, needle_id, shard_id, piece)).result()
                    self.locations.note_success(address, volume.id, shard_id)
                    if data is None:
                        raise Deleted(volume.id, needle_id)
                    view[done : done + piece.length_bytes] = data
                    done += piece.length_bytes
            except ShardUnreachable as error:
                _log.warning("%s", error)
                self.locations.note_failure(address, volume.id, shard_id, error)
                continue
            break
        return done

    def _recover(
        self, volume: EcVolume, needle_id: int, interval: Interval, view: memoryview, holders: dict[int, list[str]]
    ) -> None:
        """Fills `view` with the range computed from other shards, piece by piece. Raises Deleted, ShardUnreachable."""
        ratio = volume.ratio
        others = [shard for shard in range(ratio.total) if shard != interval.shard_id]
        sources = _Sources(self, volume, needle_id, others, holders)
        for start in range(0, interval.length_bytes, RECOVERED_BYTES):
            piece = interval.part(start, RECOVERED_BYTES)
            parts = sources.gather(piece)
            if len(parts) < ratio.data:
                have = " ".join(map(str, sorted(parts)))
                missing = " ".join(str(shard) for shard in range(ratio.total) if shard not in parts)
                raise ShardUnreachable(
                    f"cannot recover shard {volume.id}.{interval.shard_id}: only {len(parts)} shards available"
                    f" [{have}], need at least {ratio.data} (missing: [{missing}])"
                )
            present = tuple(sorted(parts))[: ratio.data]
            matrix = recovery_matrix(ratio.data, ratio.total, present, (interval.shard_id,))
            output = np.frombuffer(view[start : start + piece.length_bytes], np.uint8)
            multiply(matrix, [np.frombuffer(parts[shard], np.uint8) for shard in present], [output])


def _parsed(volume: EcVolume, needle_id: int, entry: IdxEntry, record: memoryview) -> Needle:
    """The needle of a record. Raises Corrupt and Truncated where the record does not fit its row or its checksum."""
    size = parse_needle_header(record).size
    if size != entry.size:
        raise SizeMismatch(needle_id, entry.size, size)
    needle = parse_needle(record, volume.version)
    if needle.needle_id != needle_id:
        place = f"ec volume {volume.id} needle {needle_id:x} offset {to_bytes_offset(entry.offset)}"
        raise Corrupt(place, f"there is needle {needle.needle_id:x}")
    return needle


def _range(volume: EcVolume, needle_id: int, shard_id: int, interval: Interval) -> ShardRange:
    return ShardRange(volume.id, shard_id, interval.offset_bytes, interval.length_bytes, needle_id, volume.encode_ts_ns)


class _Asked(NamedTuple):
    """A request to a holder of a shard."""

    shard_id: int
    address: str
    pending: PendingRange


class _Sources:
    """Shards from which one range is computed, piece by piece. A shard here and a holder that failed at one piece are
    not asked for the next ones.
    """

    def __init__(
        self,
        reader: EcReader,
        volume: EcVolume,
        needle_id: int,
        shard_ids: Sequence[int],
        holders: dict[int, list[str]],
    ) -> None:
        self._reader, self._volume, self._needle_id = reader, volume, needle_id
        self._wanted = volume.ratio.data
        self._here = list(shard_ids)
        self._holders = {shard: list(chain(*reader.elsewhere(volume, shard, holders))) for shard in shard_ids}

    def gather(self, piece: Interval) -> dict[int, bytes | bytearray]:
        """The same piece of as many shards as are needed, or of all that can be read. Raises Deleted."""
        parts: dict[int, bytes | bytearray] = {}
        for shard in list(self._here):
            if len(parts) == self._wanted:
                return parts
            part = bytearray(piece.length_bytes)
            if self._reader.read_here(self._volume, shard, piece.offset_bytes, memoryview(part)):
                parts[shard] = part
            else:
                self._here.remove(shard)
        if self._reader.remote is not None:
            self._take_there(self._reader.remote, piece, parts)
        return parts

    def _take_there(self, remote: RemoteShards, piece: Interval, parts: dict[int, bytes | bytearray]) -> None:
        """Requests as many pieces at the same time as are missing, and further ones in place of those that fail."""
        left = [shard for shard, addresses in self._holders.items() if addresses and shard not in parts]
        left.sort(key=self._is_last)
        asked: list[_Asked] = []
        try:
            while len(parts) < self._wanted and (left or asked):
                while left and len(parts) + len(asked) < self._wanted:
                    self._ask(remote, left.pop(0), piece, asked, left)
                if asked:
                    self._collect(asked, parts, left)
        finally:
            for one in asked:
                one.pending.cancel()

    def _ask(self, remote: RemoteShards, shard: int, piece: Interval, asked: list[_Asked], left: list[int]) -> None:
        wanted = _range(self._volume, self._needle_id, shard, piece)
        address = self._holders[shard][0]
        self._reader.locations.begin(address, self._volume.id, shard)
        try:
            asked.append(_Asked(shard, address, remote.begin_read(address, wanted)))
        except ShardUnreachable as error:
            self._failed(shard, address, error, left)

    def _collect(self, asked: list[_Asked], parts: dict[int, bytes | bytearray], left: list[int]) -> None:
        shard, address, pending = asked.pop(0)
        try:
            data = pending.result()
        except ShardUnreachable as error:
            self._failed(shard, address, error, left)
            return
        self._reader.locations.note_success(address, self._volume.id, shard)
        if data is None:
            raise Deleted(self._volume.id, self._needle_id)
        parts[shard] = data

    def _failed(self, shard: int, address: str, error: ShardUnreachable, left: list[int]) -> None:
        """Has another holder of the shard asked. A server that is silent is not asked for other shards either."""
        _log.warning("%s", error)
        self._reader.locations.note_failure(address, self._volume.id, shard, error)
        for other in self._holders if isinstance(error, ServerUnreachable) else (shard,):
            self._holders[other] = [one for one in self._holders[other] if one != address]
        left.append(shard)
        left[:] = sorted((other for other in left if self._holders[other]), key=self._is_last)

    def _is_last(self, shard: int) -> bool:
        """Whether the holder that comes next failed a short while ago."""
        return self._reader.locations.has_failed(self._holders[shard][0], self._volume.id, shard)
