"""Volumes move during writes and deletions: every present holder has each acknowledged operation."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import trio
import trio.testing
from support.http_native import SETTINGS, fetch, make_context, make_request
from support.moved_volumes import (
    FID,
    HELLO,
    NEW,
    OLD,
    SELF,
    THIRD,
    Master,
    Servers,
    absent,
    body,
    chunks,
    deleted,
    go_absent,
    go_not_found,
    missing,
    no_needle,
    put,
    read_only,
    servers,
    shorten_holder_wait,
    store_alone,
    unreachable,
    volume_gone,
    written,
)

from native_handlers.http import holders, settled
from native_handlers.http.delete import delete_at_others
from native_handlers.http.holders import HOLDER_HEADER, NO, REQUIRED, YES, is_same_server
from native_handlers.http_model.volume_servers import VolumeServerResponse
from native_handlers.storage.system.buffer_pool import BufferPool
from supervisor.fast_path.read_answer import ReadAnswers
from supervisor.fast_path.read_request import PLAIN, Read


async def delete(context, target=FID, headers=()):
    return await fetch("http.delete", context, method="DELETE", target=target, headers=headers)


@pytest.fixture(autouse=True)
def _short_holder_wait(monkeypatch):
    shorten_holder_wait(monkeypatch)


# ---- writes


@pytest.mark.parametrize("denial", [missing, lambda _: (500, [], b'{"error":"volume 4 not found"}')])
async def test_a_write_goes_on_with_the_server_to_which_the_copy_moved(store, denial):
    master, volume_servers = Master([SELF, OLD], [[SELF, NEW]]), servers(old=denial, new=written)
    assert (await put(make_context(store=store, lookup=master, volume_servers=volume_servers))).status == 201
    assert volume_servers.asked == [OLD.url, NEW.url]
    assert master.refreshes == 1
    assert all(headers.get(HOLDER_HEADER) == REQUIRED for _, _, headers in volume_servers.requests)


async def test_the_master_learns_late(store):
    stale, fresh = [SELF, OLD], [SELF, NEW]
    master, volume_servers = Master(stale, [stale, stale, fresh]), servers(old=missing, new=written)
    assert (await put(make_context(store=store, lookup=master, volume_servers=volume_servers))).status == 201
    assert volume_servers.asked == [OLD.url] * 3 + [NEW.url]


async def test_too_few_holders_in_the_middle_of_a_move_are_waited_for(store):
    master = Master([SELF, OLD], [[SELF], [SELF], [SELF, NEW]])
    volume_servers = servers(old=missing, new=written)
    assert (await put(make_context(store=store, lookup=master, volume_servers=volume_servers))).status == 201
    assert volume_servers.asked[-1] == NEW.url


@pytest.mark.slow
async def test_a_holder_that_denies_for_ever_fails_the_write_in_the_end(store):
    """Slow: the holder is asked several times, with pauses."""
    master, volume_servers = Master([SELF, OLD]), servers(old=missing)
    answer = await put(make_context(store=store, lookup=master, volume_servers=volume_servers))
    assert (answer.status, json.loads(answer.body)) == (
        500,
        {"error": f"failed to write to replicas for volume 4: [{OLD.url}]: volume 4 not found"},
    )
    assert len(volume_servers.asked) > 2


@pytest.mark.parametrize("serves", [read_only, unreachable])
async def test_a_present_holder_that_cannot_write_fails_the_write_at_once(store, serves):
    master, volume_servers = Master([SELF, OLD]), servers(old=serves)
    assert (await put(make_context(store=store, lookup=master, volume_servers=volume_servers))).status == 500
    assert (volume_servers.asked, master.refreshes) == ([OLD.url], 1)


@pytest.mark.parametrize("serves", [read_only, unreachable])
async def test_a_former_holder_that_cannot_write_does_not_fail_the_write(store, serves):
    master, volume_servers = Master([SELF, OLD], [[SELF, NEW]]), servers(old=serves, new=written)
    assert (await put(make_context(store=store, lookup=master, volume_servers=volume_servers))).status == 201
    assert volume_servers.asked == [OLD.url, NEW.url]


async def test_who_has_written_is_not_asked_again(store):
    master = Master([SELF, OLD, THIRD], [[SELF, NEW, THIRD]])
    volume_servers = servers(old=missing, new=written, third=written)
    assert (await put(make_context(store=store, lookup=master, volume_servers=volume_servers))).status == 201
    assert sorted(volume_servers.asked) == [OLD.url, NEW.url, THIRD.url]


async def test_a_copy_that_came_during_the_write_is_written_too(store):
    """An upstream server that is no longer a holder acknowledges a write without storing it: the master's answer
    decides.
    """
    master = Master([SELF, OLD])

    def moved_meanwhile(*_):
        master.known = [SELF, NEW]
        return written()

    volume_servers = servers(old=moved_meanwhile, new=written)
    assert (await put(make_context(store=store, lookup=master, volume_servers=volume_servers))).status == 201
    assert volume_servers.asked == [OLD.url, NEW.url]


async def test_a_server_without_the_volume_writes_to_all_who_have_it_now(store):
    master, volume_servers = Master([SELF, OLD], [[OLD, NEW]]), servers(old=written, new=written)
    assert (
        await put(make_context(store=store, lookup=master, volume_servers=volume_servers), "/9,0212345678")
    ).status == 201
    assert sorted(volume_servers.asked) == [OLD.url, NEW.url]


async def test_a_replica_write_without_the_volume_is_denied_where_the_sender_wants_to_know(store):
    master, volume_servers = Master([OLD, NEW]), servers(old=written, new=written)
    context = make_context(store=store, lookup=master, volume_servers=volume_servers)
    answer = await put(context, "/9,0212345678?type=replicate", headers={HOLDER_HEADER: REQUIRED})
    assert (answer.status, answer.headers.get(HOLDER_HEADER)) == (500, NO)
    assert json.loads(answer.body) == {"error": "volume 9 not found"}
    assert volume_servers.asked == []


async def test_a_replica_write_of_upstreams_is_passed_on_to_where_the_copy_moved(store):
    master, volume_servers = Master([SELF, OLD], [[OLD, NEW]]), servers(old=written, new=written)
    context = make_context(store=store, lookup=master, volume_servers=volume_servers)
    assert (await put(context, "/9,0212345678?type=replicate")).status == 201
    assert sorted(volume_servers.asked) == [OLD.url, NEW.url]
    assert all("type=replicate" in target for _, target, _ in volume_servers.requests)


async def test_a_volume_that_goes_during_a_write_is_written_where_it_is_then(store, monkeypatch):
    master, volume_servers = Master([SELF, OLD], [[OLD, NEW]]), servers(old=written, new=written)
    volume = store.get_volume(4)
    write = volume.write

    def goes(needle, **options):
        store.unmount_volume(4)
        return write(needle, **options)

    monkeypatch.setattr(volume, "write", goes)
    assert (await put(make_context(store=store, lookup=master, volume_servers=volume_servers))).status == 201
    assert sorted(volume_servers.asked) == [OLD.url, NEW.url]


async def test_this_server_is_known_by_its_address_not_by_its_spelling(store):
    spelled = replace(SELF, url=f"{SELF.url}.18080")
    master, volume_servers = Master([spelled, OLD]), servers(old=written)
    assert (await put(make_context(store=store, lookup=master, volume_servers=volume_servers))).status == 201
    assert volume_servers.asked == [OLD.url]


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("10.0.0.1:8080", "10.0.0.1:8080.18080", True),
        ("Host:8080", "host:8080", True),
        ("[::1]:8080", "::1:8080", True),
        ("10.0.0.1:8080", "10.0.0.1:8081", False),
        ("10.0.0.1:8080", "10.0.0.2:8080", False),
        ("10.0.0.1:8080", "", False),
    ],
)
def test_addresses_of_one_server(one, other, is_same):
    assert is_same_server(one, other) is is_same


async def test_nothing_is_under_way_when_a_client_hears_of_a_failure(autojump_clock):
    """A straggling request could be executed after the client's next request."""
    done = []

    class Slow(Servers):
        async def request(self, method, url, target, headers, body):
            if url == NEW.url:
                await trio.sleep(holders.STRAGGLER_S / 2)
                done.append(url)
            return await super().request(method, url, target, headers, body)

    volume_servers = Slow({OLD.url: unreachable, NEW.url: written})
    context = make_context(lookup=Master([OLD, NEW]), volume_servers=volume_servers)
    assert (await put(context)).status == 500
    assert done == [NEW.url]


# ---- deletes


@pytest.fixture
async def stored(store):
    return await store_alone(store)


@pytest.mark.parametrize("denial", [absent, go_absent])
async def test_a_delete_goes_on_with_the_server_to_which_the_copy_moved(stored, denial):
    master, volume_servers = Master([SELF, OLD], [[SELF, NEW]]), servers(old=denial, new=deleted)
    assert (await delete(make_context(store=stored, lookup=master, volume_servers=volume_servers))).status == 202
    assert volume_servers.asked == [OLD.url, NEW.url]


async def test_a_holder_without_the_needle_is_not_doubted(stored):
    master, volume_servers = Master([SELF, OLD]), servers(old=no_needle)
    assert (await delete(make_context(store=stored, lookup=master, volume_servers=volume_servers))).status == 202
    assert (volume_servers.asked, master.refreshes) == ([OLD.url], 0)


async def test_upstreams_404_counts_when_the_master_still_names_it(stored):
    master, volume_servers = Master([SELF, OLD]), servers(old=go_absent)
    assert (await delete(make_context(store=stored, lookup=master, volume_servers=volume_servers))).status == 202
    assert (volume_servers.asked, master.refreshes) == ([OLD.url], 1)


@pytest.mark.slow
async def test_a_holder_that_denies_for_ever_fails_the_delete(stored):
    """Slow: the holder is asked several times, with pauses."""
    master, volume_servers = Master([SELF, OLD]), servers(old=absent)
    answer = await delete(make_context(store=stored, lookup=master, volume_servers=volume_servers))
    assert (answer.status, json.loads(answer.body)) == (
        500,
        {"error": f"Deletion Failed: [{OLD.url}]: volume 4 not found"},
    )


async def test_a_delete_that_failed_at_a_copy_reaches_it_when_it_is_repeated(stored):
    master, volume_servers = Master([SELF, OLD]), servers(old=[read_only, deleted])
    context = make_context(store=stored, lookup=master, volume_servers=volume_servers)
    assert (await delete(context)).status == 500
    answer = await delete(context)
    assert (answer.status, json.loads(answer.body)) == (202, {"size": 44})


async def test_what_no_holder_has_is_404(store):
    volume_servers = servers(old=no_needle)
    answer = await delete(make_context(store=store, lookup=Master([SELF, OLD]), volume_servers=volume_servers))
    assert (answer.status, json.loads(answer.body)) == (404, {"size": 0})
    assert volume_servers.asked == [OLD.url]


async def test_another_cookie_at_the_other_holder_is_400(store):
    wrong = b'{"error":"File Random Cookie does not match."}'
    volume_servers = servers(old=lambda _: (400, [], wrong))
    answer = await delete(make_context(store=store, lookup=Master([SELF, OLD]), volume_servers=volume_servers))
    assert (answer.status, answer.body) == (400, wrong)


async def test_a_delete_of_what_is_not_here_fails_where_a_holder_cannot_be_reached(store):
    answer = await delete(
        make_context(store=store, lookup=Master([SELF, OLD]), volume_servers=servers(old=unreachable))
    )
    assert answer.status == 500


async def test_a_replica_delete_stays_here(store):
    volume_servers = servers(old=deleted)
    context = make_context(store=store, lookup=Master([SELF, OLD]), volume_servers=volume_servers)
    assert (await delete(context, f"{FID}?type=replicate")).status == 404
    assert volume_servers.asked == []


async def test_a_delete_for_a_volume_that_is_not_here_goes_where_it_is(store):
    master, volume_servers = Master([SELF], [[OLD, NEW]]), servers(old=deleted, new=no_needle)
    answer = await delete(make_context(store=store, lookup=master, volume_servers=volume_servers), "/9,0212345678")
    assert (answer.status, json.loads(answer.body)) == (202, {"size": 44})
    assert sorted(volume_servers.asked) == [OLD.url, NEW.url]


@pytest.mark.parametrize("known", ["volume id 9 not found", [], [SELF]])
async def test_a_delete_for_a_volume_that_nobody_has_is_404(store, known):
    context = make_context(store=store, lookup=Master(known), volume_servers=servers())
    answer = await delete(context, "/9,0212345678")
    assert (answer.status, json.loads(answer.body)) == (404, {"size": 0})


@pytest.mark.parametrize(
    ("serves", "status"), [(deleted, 202), (no_needle, None), (go_absent, None), (unreachable, 500)]
)
async def test_a_404_of_the_backend_is_looked_into(serves, status):
    request = make_request("DELETE", FID)
    context = make_context(lookup=Master([SELF, OLD]), volume_servers=servers(old=serves))
    response = await delete_at_others(context, request)
    assert (response and response.status) == status


@pytest.mark.parametrize(
    ("target", "known"), [(f"{FID}?type=replicate", [OLD]), ("/x,0212345678", [OLD]), (FID, "not found"), (FID, [SELF])]
)
async def test_a_404_of_the_backend_holds_where_there_is_nobody_to_ask(target, known):
    context = make_context(lookup=Master(known), volume_servers=servers())
    assert await delete_at_others(context, make_request("DELETE", target)) is None
    assert await delete_at_others(make_context(), make_request("DELETE", FID)) is None


async def test_a_replica_delete_without_the_volume_is_denied_where_the_sender_wants_to_know(store):
    volume_servers = servers(old=deleted)
    context = make_context(store=store, lookup=Master([OLD]), volume_servers=volume_servers)
    target = "/9,0212345678?type=replicate"
    answer = await delete(context, target, {HOLDER_HEADER: REQUIRED})
    assert (answer.status, answer.headers.get(HOLDER_HEADER), volume_servers.asked) == (404, NO, [])
    answer = await delete(context, target)
    assert (answer.status, answer.headers.get(HOLDER_HEADER), volume_servers.asked) == (202, None, [OLD.url])


async def test_a_holder_says_that_it_is_one(stored):
    context = make_context(store=stored, lookup=Master([SELF, OLD]), volume_servers=servers())
    for status in (202, 404):
        answer = await delete(context, f"{FID}?type=replicate", {HOLDER_HEADER: REQUIRED})
        assert (answer.status, answer.headers.get(HOLDER_HEADER)) == (status, YES)


async def test_a_volume_that_goes_during_a_delete_is_deleted_from_where_it_is_then(stored, monkeypatch):
    master, volume_servers = Master([SELF, OLD], [[OLD, NEW]]), servers(old=deleted, new=deleted)
    find_volume = stored.find_volume

    def goes(vid):
        volume = find_volume(vid)
        if volume is not None:
            stored.unmount_volume(vid)
        return volume

    monkeypatch.setattr(stored, "find_volume", goes)
    assert (await delete(make_context(store=stored, lookup=master, volume_servers=volume_servers))).status == 202
    assert sorted(volume_servers.asked) == [OLD.url, NEW.url]


# ---- chunks of manifests


async def with_chunk_at(store, volume_id):
    """A context whose store has a manifest of one chunk. The chunk is in a volume of another server."""
    manifest = {"name": "m", "size": len(HELLO), "chunks": [{"fid": f"{volume_id},0a12345678", "size": len(HELLO)}]}
    master, volume_servers = Master([OLD], [[NEW]]), servers()
    context = make_context(store=store, lookup=master, volume_servers=volume_servers)
    assert (await put(context, "/3,0112345678?cm=true", json.dumps(manifest).encode())).status == 201
    return context


@pytest.mark.parametrize("denial", [volume_gone, go_not_found, unreachable])
async def test_a_chunk_is_read_where_its_volume_moved(store, denial):
    context = await with_chunk_at(store, 9)
    context.volume_servers.by_url = {OLD.url: denial, NEW.url: body}
    answer = await fetch("http.read", context, target="/3,0112345678")
    assert (answer.status, answer.body) == (200, HELLO)


@pytest.mark.parametrize("denial", [absent, go_absent])
async def test_a_chunk_is_deleted_where_its_volume_moved(store, denial):
    context = await with_chunk_at(store, 9)
    context.volume_servers.by_url = {OLD.url: denial, NEW.url: deleted}
    assert (await delete(context, "/3,0112345678")).status == 202
    assert context.volume_servers.asked == [OLD.url, NEW.url]


@pytest.mark.slow
async def test_a_chunk_that_its_holder_denies_for_ever_keeps_the_manifest(store):
    """Slow: the holder is asked several times, with pauses."""
    context = await with_chunk_at(store, 9)
    context.lookup.answers = []
    context.volume_servers.by_url = {OLD.url: absent}
    assert (await delete(context, "/3,0112345678")).status == 500
    assert (await fetch("http.read", context, target="/3,0112345678?cm=false")).status == 200


async def test_a_chunk_of_a_volume_that_is_nowhere_keeps_the_manifest(store):
    context = await with_chunk_at(store, 9)
    context.lookup.answers = [[SELF]]
    context.lookup.known = [SELF]
    assert (await delete(context, "/3,0112345678")).status == 500


# ---- two servers of ours


@pytest.mark.slow
async def test_two_native_servers_agree_who_holds_a_volume(store, tmp_path, opened):
    """Each server understands the other's answers: a needle is absent, or a volume is. Slow: a server without the
    volume is asked several times, with pauses.
    """
    other = opened(tmp_path / "other", volumes=())
    there = make_context(store=other, lookup=Master([SELF]), volume_servers=servers())
    routes = {"PUT": "http.write", "POST": "http.write", "DELETE": "http.delete", "GET": "http.read"}

    class Ours(Servers):
        async def request(self, method, url, target, headers, body):
            self.asked.append(url)
            reply = await fetch(routes[method], there, method=method, target=target, headers=headers, body=body)
            return VolumeServerResponse(reply.status, reply.headers, chunks(reply.body))

    volume_servers = Ours({})
    here = make_context(store=store, lookup=Master([SELF, OLD]), volume_servers=volume_servers)
    answer = await put(here)
    assert json.loads(answer.body)["error"].endswith(f"[{OLD.url}]: volume 4 not found")
    other.allocate_volume(4, replication="001")
    assert (await put(here)).status == 204
    asked = len(volume_servers.asked)
    assert (await delete(here)).status == 202
    assert (await delete(here)).status == 404
    assert len(volume_servers.asked) == asked + 2


# ---- a copy that has just come here


@pytest.fixture
async def settling(store, monkeypatch):
    """A store with the needle in volume 4. The volume settles until the context ends."""
    context = make_context(store=store, lookup=Master([SELF, OLD]), volume_servers=servers(old=written))
    assert (await put(context)).status == 201
    return store.settling.settle(4)


@pytest.mark.slow
async def test_clients_wait_until_a_copy_has_what_was_written_meanwhile(store, settling, monkeypatch):
    """Slow: clients wait for a copy."""
    monkeypatch.setattr(settled, "LOOK_S", 0.2)
    volume_servers = servers(old=lambda _: (201, [], b"{}"))
    context = make_context(store=store, lookup=Master([SELF, OLD]), volume_servers=volume_servers)
    answers = []

    async def ask(name, request):
        answers.append((name, (await request).status))

    async with trio.open_nursery() as nursery:
        with settling:
            nursery.start_soon(ask, "read", fetch("http.read", context, target=FID))
            nursery.start_soon(ask, "write", put(context, "/4,0312345678"))
            nursery.start_soon(ask, "replica", put(context, "/4,0512345678?type=replicate"))
            nursery.start_soon(ask, "delete", delete(context, "/4,0412345678?type=replicate"))
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert answers == []
            assert volume_servers.asked == []
    assert sorted(answers) == [("delete", 404), ("read", 200), ("replica", 201), ("write", 201)]


@pytest.mark.slow
async def test_a_copy_that_does_not_settle_refuses_changes_in_the_end(store, settling, monkeypatch):
    """Slow: clients wait for a copy."""
    monkeypatch.setattr(settled, "WAIT_S", 0.05)
    context = make_context(store=store, lookup=Master([SELF, OLD]), volume_servers=servers(old=written))
    with settling:
        answer = await put(context)
        assert (answer.status, json.loads(answer.body)) == (500, {"error": "volume 4 is being copied here"})
        answer = await delete(context)
        reason = "Deletion Failed: volume 4 is being copied here"
        assert (answer.status, json.loads(answer.body)) == (500, {"error": reason})
        assert (await fetch("http.read", context, target=FID)).body == HELLO


async def test_the_short_way_leaves_a_copy_that_settles_to_the_long_one(store, settling):
    answers = ReadAnswers(BufferPool(), SETTINGS)

    def answered():
        return answers.try_answer(store, Read("GET", 4, 2, 0x12345678, PLAIN, takes_gzip=False), "now")

    assert answered() is not None
    with settling:
        assert answered() is None
