from __future__ import annotations

import threading

import pytest
import trio
from support.fake_master import ROW, know, look_ups
from support.waiting import LIMIT_S

from native_handlers.http.context import Location, LookupFailed
from supervisor.cluster.dial import dial_insecure
from supervisor.cluster.location_cache import UNTOLD_S
from supervisor.cluster.master_client import MasterClient
from supervisor.cluster.master_view import MasterView
from supervisor.wire.server_address import ServerAddress

DEAD = ServerAddress("127.0.0.1", 1, 1)


@pytest.fixture
def client(fake_master, clock):
    client = MasterClient(MasterView([fake_master.address]), dial_insecure, clock_s=clock.seconds)
    yield client
    client.close()


async def test_locations_are_kept_for_a_moment_while_no_master_tells_of_changes(fake_master, client, clock):
    know(fake_master, v3=[ROW])
    expected = [Location("10.0.0.7:8080", "pub:80", 18080)]
    assert await client.locations(3) == expected
    clock.advance(UNTOLD_S * 0.9)
    assert await client.locations(3) == expected
    assert look_ups(fake_master) == 1
    clock.advance(UNTOLD_S * 0.2)
    assert await client.locations(3) == expected
    assert look_ups(fake_master) == 2


async def test_refresh_and_invalidate_ask_again(fake_master, client):
    know(fake_master, v3=[ROW])
    await client.locations(3)
    know(fake_master, v3=[])
    assert await client.locations(3, refresh=True) == []
    client.invalidate(3)
    await client.locations(3)
    assert look_ups(fake_master) == 3


async def test_what_a_caller_does_to_its_list_does_not_reach_the_cache(fake_master, client):
    know(fake_master, v3=[ROW])
    (await client.locations(3)).clear()
    assert len(await client.locations(3)) == 1


async def test_the_masters_error_text_is_passed_on_and_not_cached(fake_master, client):
    know(fake_master, v9="volume id 9 not found")
    for _ in range(2):
        with pytest.raises(LookupFailed, match=r"^volume id 9 not found$"):
            await client.locations(9)
    assert look_ups(fake_master) == 2


async def test_the_next_seed_answers_when_the_first_is_dead(fake_master):
    know(fake_master, v3=[ROW])
    view = MasterView([DEAD, fake_master.address])
    client = MasterClient(view, dial_insecure)
    assert len(await client.locations(3)) == 1
    assert view.leader == fake_master.address
    client.close()


async def test_no_master_at_all_is_a_failed_look_up():
    client = MasterClient(MasterView([DEAD]), dial_insecure)
    with pytest.raises(LookupFailed, match="UNAVAILABLE"):
        await client.locations(3)
    client.close()


async def test_a_cancelled_look_up_ends_at_once(fake_master, client):
    arrived = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def hang(requests, context):
        ended = threading.Event()
        context.add_callback(ended.set)
        token.run_sync_soon(arrived.set)
        ended.wait(2 * LIMIT_S)
        yield b""

    fake_master.answers["LookupVolume"] = hang
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.locations, 3)
            await arrived.wait()
            nursery.cancel_scope.cancel()


async def test_it_waits_until_some_seed_gives_its_configuration(fake_master, second_master, autojump_clock):
    fake_master.configuration.leader = str(second_master.address)
    fake_master.configuration.metrics_address = "push:9091"
    view = MasterView([DEAD, fake_master.address])
    client = MasterClient(view, dial_insecure)
    response = await client.wait_for_configuration()
    assert response.volume_size_limit_m_b == 30
    assert view.leader == second_master.address
    assert view.settings.metrics_address == "push:9091"
    assert view.configuration == response
    client.close()


@pytest.mark.slow
async def test_it_asks_again_after_a_pause(fake_master):
    """Slow: it asks for longer than the pause."""
    view = MasterView([DEAD])
    client = MasterClient(view, dial_insecure)
    with trio.move_on_after(0.3) as scope:
        await client.wait_for_configuration()
    assert scope.cancelled_caught
    client.close()


async def test_it_looks_up_when_all_shared_threads_are_taken(fake_master, client, no_shared_threads):
    know(fake_master, v3=[ROW])
    with trio.fail_after(LIMIT_S):
        assert await client.locations(3)
