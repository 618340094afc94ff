"""A mount of shards is answered when the backend has reported them."""

from native_handlers.pb import volume_server_pb2 as pb
from supervisor.gateway.grpc_forward import ForwardedCall
from supervisor.gateway.grpc_new_shards import wait_until_reported

CALL = ForwardedCall(
    "grpc.VolumeEcShardsMount", pb.VolumeEcShardsMountRequest(volume_id=7, shard_ids=[1]).SerializeToString(), b""
)


def test_it_asks_until_the_volume_is_known():
    answers = iter([False, False, True])
    asked = []

    def has_ec_shards(volume_id):
        asked.append(volume_id)
        return next(answers)

    wait_until_reported(has_ec_shards)(CALL)
    assert asked == [7, 7, 7]


def test_it_does_not_wait_for_ever(caplog):
    wait_until_reported(lambda _: False, 0.02)(CALL)
    assert "has not reported them" in caplog.text
