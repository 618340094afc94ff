from __future__ import annotations

from native_handlers.pb import master_pb2
from supervisor.cluster.master_view import MasterView
from supervisor.wire.server_address import ServerAddress

A, B, C = (ServerAddress(f"10.0.0.{last}", 9333, 19333) for last in (1, 2, 3))


def test_the_first_seed_is_asked_until_more_is_known():
    view = MasterView([A, B])
    assert (view.leader, view.connected) == (A, None)
    view.note_leader(C)
    assert view.leader == C
    view.set_connected(B)
    assert (view.leader, view.connected) == (B, B)


def test_an_unreachable_choice_gives_way_to_the_next_seed_around_the_ring():
    view = MasterView([A, B])
    view.note_unreachable(A)
    assert view.leader == B
    view.note_unreachable(B)
    assert view.leader == A
    view.note_leader(C)
    view.note_unreachable(C)
    assert view.leader == A


def test_a_late_failure_of_another_master_changes_nothing():
    view = MasterView([A, B])
    view.note_leader(B)
    view.note_unreachable(A)
    assert view.leader == B


def test_a_broken_stream_keeps_the_last_leader_as_the_best_guess():
    view = MasterView([A, B])
    view.set_connected(B)
    view.set_connected(None)
    assert view.leader == B


def test_listeners_hear_of_changes_only_and_can_be_removed():
    view, heard = MasterView([A]), []
    remove = view.add_settings_listener(heard.append)
    response = master_pb2.HeartbeatResponse(volume_size_limit=5, preallocate=True)
    view.note_response(response)
    view.note_response(response)
    assert [settings.volume_size_limit_bytes for settings in heard] == [0, 5]
    remove()
    view.note_response(master_pb2.HeartbeatResponse(volume_size_limit=6))
    assert len(heard) == 2


def test_storage_backends_and_metrics_come_with_the_configuration():
    view = MasterView([A])
    backend = master_pb2.StorageBackend(type="s3", id="default", properties={"bucket": "b"})
    view.note_configuration(
        master_pb2.GetMasterConfigurationResponse(metrics_address="m:1", storage_backends=[backend])
    )
    view.note_response(master_pb2.HeartbeatResponse(volume_size_limit=5))
    assert (view.settings.metrics_address, view.settings.storage_backends) == ("m:1", (backend,))


def test_tiers_of_this_servers_own_configuration_come_before_a_masters_of_the_same_name():
    def backend(tier_id, bucket):
        return master_pb2.StorageBackend(type="s3", id=tier_id, properties={"bucket": bucket})

    own = backend("cold", "own")
    view = MasterView([A], [own])
    assert view.settings.storage_backends == (own,)
    told = [backend("cold", "the master's"), backend("warm", "the master's")]
    view.note_configuration(master_pb2.GetMasterConfigurationResponse(storage_backends=told))
    assert view.settings.storage_backends == (own, told[1])
    assert list(view.configuration.storage_backends) == [own, told[1]]
    view.note_response(master_pb2.HeartbeatResponse(volume_size_limit=5))
    assert view.settings.storage_backends == (own, told[1])
    view.note_response(master_pb2.HeartbeatResponse(storage_backends=[told[0]]))
    assert view.settings.storage_backends == (own,)


def test_who_waits_for_a_master_is_called_once_when_one_has_taken_the_node():
    view, heard = MasterView([A]), []
    view.when_connected(lambda: heard.append("waited"))
    assert not heard
    view.set_connected(A)
    view.set_connected(None)
    view.set_connected(A)
    assert heard == ["waited"]
    view.when_connected(lambda: heard.append("at once"))
    assert heard == ["waited", "at once"]
