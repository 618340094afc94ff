"""Erasure-coded volumes for tests, and other servers that hold their shards."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from native_handlers.storage.erasure_coding.remote import ServerUnreachable, ShardUnreachable
from support.made_once import put_files
from support.stores import open_at

if TYPE_CHECKING:
    from pathlib import Path

    from native_handlers.format.needle import Needle
    from native_handlers.storage.store import Store


class FakeRemote:
    """Other servers: the content of each shard id, by address.

    Attributes:
        silent: the addresses that give no answer.
        deleted: the needles that each address has deleted.
        asked: how often the master was asked for the holders.
        requests: all that was requested: address and range.
        most_pending_bytes: the most bytes of requests whose answer was not taken yet.
    """

    def __init__(self, shards):
        self.shards = shards
        self.silent, self.deleted = set(), {}
        self.asked, self.requests = 0, []
        self.is_away = False
        self.pending_bytes = self.most_pending_bytes = 0

    @property
    def read(self):
        """The shard of each request."""
        return [wanted.shard_id for _, wanted in self.requests]

    def holders(self, _volume_id):
        self.asked += 1
        if self.is_away:
            raise ServerUnreachable("the master is away")
        found = {}
        for address, shards in self.shards.items():
            for shard in shards:
                found.setdefault(shard, []).append(address)
        return found

    def is_self(self, _address):
        return False

    def begin_read(self, address, wanted):
        self.requests.append((address, wanted))
        content = self.shards.get(address, {}).get(wanted.shard_id)
        self._pend(wanted.length_bytes)

        class Pending:
            def result(_pending):
                self._pend(-wanted.length_bytes)
                if address in self.silent:
                    raise ServerUnreachable(f"{address} is silent")
                if wanted.needle_id in self.deleted.get(address, ()):
                    return None
                if content is None:
                    raise ShardUnreachable("it went")
                return content[wanted.offset_bytes : wanted.offset_bytes + wanted.length_bytes]

            def cancel(_pending):
                self._pend(-wanted.length_bytes)

        return Pending()

    def _pend(self, count_bytes):
        self.pending_bytes += count_bytes
        self.most_pending_bytes = max(self.most_pending_bytes, self.pending_bytes)


def code_volume(directory: Path, volume_id: int, *needles: Needle, **config) -> Store:
    """A store that has just coded a volume of these needles, and has its shards open; the volume itself is gone."""
    store = open_at(directory, **config)
    store.allocate_volume(volume_id)
    for needle in needles:
        store.get_volume(volume_id).write(needle)
    store.ec_work.generate(store.find_volume(volume_id), "")
    for shard in range(14):
        store.ec.mount("", volume_id, shard)
    store.delete_volume(volume_id, only_empty=False)
    return store


def put_coded_volume(directory: Path, volume_id: int, *needles: Needle) -> None:
    """Puts the files of a coded volume of these needles into a directory, which is made when missing.

    The volume is coded once in a process, and has one time of coding in all tests.
    """

    def code(place):
        # A write notes in the needle when it was appended: that of the caller stays the key.
        code_volume(place, volume_id, *map(dataclasses.replace, needles)).close()

    put_files(directory, (volume_id, *map(dataclasses.astuple, needles)), code)


def open_coded_volume(directory: Path, volume_id: int, *needles: Needle, **config) -> Store:
    """A store on a directory with nothing but the files of `put_coded_volume`. It has all shards open."""
    put_coded_volume(directory, volume_id, *needles)
    return open_at(directory, **config)
