"""A volume comes to this server while other servers are asked for it: what nobody has done is no success."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from support.http_native import fetch, make_context
from support.moved_volumes import (
    HELLO,
    OLD,
    SELF,
    Master,
    absent,
    go_absent,
    missing,
    put,
    servers,
    shorten_holder_wait,
    unreachable,
    written,
)

from native_handlers.format.needle import Needle
from native_handlers.storage.model.errors import Deleted

FID = "/9,0212345678"
MANIFEST = "/3,0112345678"


@dataclass
class ArrivingMaster(Master):
    """A master that names this server alone from its refresh number `at` on. Volume 9 comes here at that moment."""

    store: object = None
    at: int = 2

    async def locations(self, vid, *, refresh=False):
        if refresh and self.refreshes + 1 == self.at:
            self.known = [SELF]
            if self.store is not None:
                self.store.allocate_volume(9)
                self.store.find_volume(9).write(Needle(needle_id=2, cookie=0x12345678, data=HELLO))
        return await super().locations(vid, refresh=refresh)


@pytest.fixture(autouse=True)
def _short_holder_wait(monkeypatch):
    shorten_holder_wait(monkeypatch)


async def delete(context, target):
    return await fetch("http.delete", context, method="DELETE", target=target)


def is_deleted(store):
    with pytest.raises(Deleted):
        store.find_volume(9).read_cookie(2)
    return True


@pytest.mark.parametrize("old", [missing, unreachable])
@pytest.mark.parametrize("target", [FID, f"{FID}?type=replicate"], ids=["client", "upstreams-copy"])
async def test_a_write_that_nobody_has_made_is_no_success(store, old, target):
    master = Master([OLD], [[OLD], [SELF]])
    answer = await put(make_context(store=store, lookup=master, volume_servers=servers(old=old)), target)
    assert (answer.status, json.loads(answer.body)) == (500, {"error": "volume 9 not found"})


@pytest.mark.parametrize("old", [missing, unreachable])
async def test_a_write_is_made_where_the_volume_has_come(store, old):
    volume_servers = servers(old=old)
    context = make_context(store=store, lookup=ArrivingMaster([OLD], store=store), volume_servers=volume_servers)
    assert (await put(context, FID, b"newer")).status == 201
    assert (await fetch("http.read", context, target=FID)).body == b"newer"
    assert volume_servers.asked == [OLD.url]


async def test_a_write_is_made_here_though_no_other_server_was_named(store):
    context = make_context(
        store=store, lookup=ArrivingMaster([OLD], store=store, at=1), volume_servers=servers(old=written)
    )
    assert (await put(context, FID, b"newer")).status == 201
    assert (await fetch("http.read", context, target=FID)).body == b"newer"


@pytest.mark.parametrize("old", [absent, go_absent, unreachable])
async def test_a_delete_is_made_where_the_volume_has_come(store, old):
    context = make_context(store=store, lookup=ArrivingMaster([OLD], store=store), volume_servers=servers(old=old))
    assert (await delete(context, FID)).status == 202
    assert is_deleted(store)


async def test_a_delete_that_nobody_has_made_is_no_success(store):
    context = make_context(store=store, lookup=ArrivingMaster([OLD]), volume_servers=servers(old=unreachable))
    assert (await delete(context, FID)).status == 500


async def with_chunk(store, master, old):
    """A context whose store has a manifest with a chunk in volume 9."""
    manifest = {"name": "m", "size": len(HELLO), "chunks": [{"fid": FID[1:], "size": len(HELLO)}]}
    context = make_context(store=store, lookup=master, volume_servers=servers(old=old))
    assert (await put(context, f"{MANIFEST}?cm=true", json.dumps(manifest).encode())).status == 201
    return context


@pytest.mark.parametrize("old", [absent, go_absent, unreachable])
async def test_a_chunk_is_deleted_where_its_volume_has_come(store, old):
    context = await with_chunk(store, ArrivingMaster([OLD], store=store, at=1), old)
    assert (await delete(context, MANIFEST)).status == 202
    assert is_deleted(store)


@pytest.mark.parametrize("old", [absent, go_absent, unreachable])
async def test_a_chunk_that_nobody_has_deleted_keeps_the_manifest(store, old):
    context = await with_chunk(store, ArrivingMaster([OLD], at=1), old)
    assert (await delete(context, MANIFEST)).status == 500
    assert (await fetch("http.read", context, target=f"{MANIFEST}?cm=false")).status == 200
