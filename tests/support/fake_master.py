"""A master for the heartbeat and the relay: keeps books as upstream's, can be a follower, can misbehave.

Source: weed/server/master_grpc_server.go (SendHeartbeat), weed/topology.
"""

from __future__ import annotations

import queue
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc

from native_handlers.format.report_hash import report_hash_of_message
from native_handlers.pb import master_pb2
from native_handlers.pb.methods import MASTER_METHODS
from supervisor.cluster.messages import volume_from_short
from supervisor.wire.server_address import ServerAddress
from support.waiting import LIMIT_S

_SERVER_OPTIONS = [
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10),  # tests ping far more often than a product does
]


class Books:
    """The records of a master about one volume server. Volumes are keyed by disk type and id, as upstream keys them."""

    def __init__(self):
        self.volumes = {}
        self.ec_shards = {}
        self.limits = {}
        self.state = None
        self.has_registered = False

    def apply(self, beat):
        """Applies a beat. Returns whether the full list is needed."""
        self.has_registered = True
        self.limits.update(beat.max_volume_counts)
        if beat.HasField("state"):
            self.state = beat.state
        for short in beat.deleted_volumes:
            self.volumes.pop((short.disk_type, short.id), None)
        for short in beat.new_volumes:
            self._put(volume_from_short(short))
        for volume in beat.changed_volumes:
            self._put(volume)
        if beat.volumes or beat.has_no_volumes:
            self.volumes = {}
            for volume in beat.volumes:
                self._put(volume)
        for shards in beat.deleted_ec_shards:
            self._change_shards(shards, lambda held, bits: held & ~bits)
        for shards in beat.new_ec_shards:
            self._change_shards(shards, lambda held, bits: held | bits)
        if beat.ec_shards or beat.has_no_ec_shards:
            self.ec_shards = {(shards.disk_id, shards.id): shards.ec_index_bits for shards in beat.ec_shards}
        is_full = bool(beat.volumes) or beat.has_no_volumes
        return beat.HasField("volume_digest") and not is_full and beat.volume_digest != self.digest

    @property
    def digest(self):
        digest = 0
        for volume in self.volumes.values():
            digest ^= report_hash_of_message(volume)
        return digest

    @property
    def volume_ids(self):
        return {volume_id for _, volume_id in self.volumes}

    def _put(self, volume):
        self.volumes[volume.disk_type, volume.id] = volume

    def _change_shards(self, shards, combine):
        key = (shards.disk_id, shards.id)
        bits = combine(self.ec_shards.get(key, 0), shards.ec_index_bits)
        self.ec_shards.pop(key, None)
        if bits:
            self.ec_shards[key] = bits


class FakeMaster:
    """One master process on a loopback port. Every hook is a plain attribute; set it before or during a test."""

    def __init__(self):
        self.changed = threading.Condition()
        self.books = Books()
        self.beats = []
        self.streams_opened = 0
        self.requests = []
        self.leader = ""
        self.refuse_uuids = 0
        self.supports_digest = True
        self.options = {"volume_size_limit": 30 << 20}
        self.configuration = master_pb2.GetMasterConfigurationResponse(volume_size_limit_m_b=30)
        self.answers = {}
        self.outbox = None
        self.executor = ThreadPoolExecutor(16)
        self.server = grpc.server(self.executor, handlers=[self], options=_SERVER_OPTIONS)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.address = ServerAddress("127.0.0.1", self.port, self.port)
        self.configuration.leader = str(self.address)
        self.server.start()

    def stop(self):
        self.server.stop(0).wait(LIMIT_S)
        self.executor.shutdown(wait=False, cancel_futures=True)

    def wait_for(self, condition, timeout_s=LIMIT_S):
        with self.changed:
            assert self.changed.wait_for(condition, timeout_s), f"beats so far: {self.beats[-5:]}"

    def push(self, **options):
        """Sends a response in the open heartbeat stream."""
        self.outbox.put(master_pb2.HeartbeatResponse(**(self.options | options)))

    def service(self, details):
        name = details.method.rpartition("/")[2]
        method = MASTER_METHODS.get(name)
        if name == "SendHeartbeat":
            return grpc.stream_stream_rpc_method_handler(
                self._heartbeat, method.request_class.FromString, method.response_class.SerializeToString
            )
        return grpc.stream_stream_rpc_method_handler(lambda requests, context: self._other(name, requests, context))

    def _heartbeat(self, beats, context):
        outbox = self.outbox = queue.Queue()
        context.add_callback(lambda: outbox.put(None))
        with self.changed:
            self.streams_opened += 1
            self.changed.notify_all()
        threading.Thread(target=self._read, args=(beats, outbox), daemon=True).start()
        while (response := outbox.get()) is not None:
            yield response
            if response.duplicated_uuids:
                context.abort(grpc.StatusCode.UNKNOWN, "volume: Duplicated volume directories were loaded")

    def _read(self, beats, outbox):
        books = Books()
        try:
            for beat in beats:
                self._take(books, beat, outbox)
        except grpc.RpcError:
            pass
        outbox.put(None)
        with self.changed:
            if self.books is books:
                self.books = Books()
            self.changed.notify_all()

    def _take(self, books, beat, outbox):
        with self.changed:
            self.beats.append(beat)
            if self.leader:
                outbox.put(master_pb2.HeartbeatResponse(leader=self.leader))
            elif self.refuse_uuids:
                self.refuse_uuids -= 1
                outbox.put(master_pb2.HeartbeatResponse(duplicated_uuids=beat.location_uuids))
            else:
                if not books.has_registered:
                    self.books = books
                    outbox.put(
                        master_pb2.HeartbeatResponse(volume_digest_supported=self.supports_digest, **self.options)
                    )
                if books.apply(beat):
                    outbox.put(master_pb2.HeartbeatResponse(resend_full_volume_list=True, **self.options))
            self.changed.notify_all()

    def _other(self, name, requests, context):
        self.requests.append((name, dict(context.invocation_metadata())))
        if name == "GetMasterConfiguration":
            next(requests)
            yield self.configuration.SerializeToString()
            return
        yield from self.answers[name](requests, context)


ROW = master_pb2.Location(url="10.0.0.7:8080", public_url="pub:80", grpc_port=18080)


def know(master, **answers):
    """Makes `master` answer look-ups: v<id>=locations or error text."""

    def answer(requests, context):
        request = master_pb2.LookupVolumeRequest.FromString(next(requests))
        response = master_pb2.LookupVolumeResponse()
        for volume_id in request.volume_or_file_ids:
            row = answers[f"v{volume_id}"]
            known = {"error": row} if isinstance(row, str) else {"locations": row}
            response.volume_id_locations.add(volume_or_file_id=volume_id, **known)
        yield response.SerializeToString()

    master.answers["LookupVolume"] = answer


def look_ups(master):
    return sum(name == "LookupVolume" for name, _ in master.requests)
