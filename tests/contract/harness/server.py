"""A volume server of any implementation: started, addressed, restarted, ended, and asked for common facts."""

import itertools
import os
import signal
from pathlib import Path

import grpc
from harness.http1 import Disconnected, fetch
from harness.implementations import Layout
from harness.processes import ServerProcess, argument_of, children_of, is_alive, is_worker
from support.ports import LOOPBACK, free_port, free_port_pair
from support.waiting import LIMIT_S as RPC_LIMIT_S
from support.waiting import wait_until

from native_handlers.pb import methods, volume_server_pb2
from supervisor.wire.server_address import join_host_port

_VOLUME_IDS = itertools.count(900_000, -1)  # downwards, for the master gives out the highest it knows plus one
_NEEDLE_IDS = itertools.count(1 << 20)  # above every id that a test writes out
COOKIE = 0x637037D6
START_LIMIT_S = 60.0


def new_volume_id():
    """A volume id that no test has used."""
    return next(_VOLUME_IDS)


class VolumeServer:
    """A running server. `admin` and `public` are (host, port); `rpc` is a client of its gRPC service.

    `tls` (see certificates.py) says that it was configured for TLS and how a client has to speak to it.

    Args:
        ip: what it tells the master; `host` is where it can be reached.
        directories: how many it is given.
        waits: False returns while it starts.
        master: something with an `address`, and `registered_urls` of those that are registered there.
    """

    command_prefix = ()
    """The starter of the program, where that is not the harness itself."""

    def __init__(  # noqa: PLR0913, PLR0917  a test's choices
        self,
        implementation,
        base,
        master,
        weed,
        extra_flags=(),
        security="",
        tls=None,
        *,
        ip=LOOPBACK,
        host=LOOPBACK,
        directories=1,
        waits=True,
        grpc_port=None,
    ):
        self.implementation = implementation
        self.host = host
        self.tls = tls
        self.base = Path(base)
        self.master = master
        config_dir = self.base / "config"
        config_dir.mkdir(parents=True)
        data_dirs = tuple(self.base / f"data{number or ''}" for number in range(directories))
        for directory in data_dirs:
            directory.mkdir()
        self.security_file = config_dir / "security.toml"
        self.security_file.write_text(security)
        http_port, usual_grpc_port = free_port_pair()  # some tools take the gRPC port to be 10000 higher
        self.layout = Layout(http_port, grpc_port or usual_grpc_port, free_port(), data_dirs, config_dir, master, ip)
        self._weed = weed
        self.extra_flags = tuple(extra_flags)
        self._channel = None
        self._volume_id = None
        self.launch()
        if waits:
            self.wait_until_ready()

    def start(self):
        """Starts the program. Returns when the server serves and the master knows it."""
        self.launch()
        self.wait_until_ready()

    def launch(self):
        """Starts the program without waiting for it."""
        command = [*self.command_prefix, *self.implementation.command(self.layout, self._weed, self.extra_flags)]
        self.process = ServerProcess(command, self.base / "server.log", self.base)

    def wait_until_ready(self):
        """Returns when the server serves and the master knows it."""
        try:
            wait_until(self._serves, f"{self.implementation.name} to serve", START_LIMIT_S)
            wait_until(
                self.is_registered, f"{self.implementation.name} to be registered with the master", START_LIMIT_S
            )
        except (TimeoutError, RuntimeError) as error:
            self.process.end()
            raise RuntimeError(f"{error}; its log:\n{self.process.log_tail()}") from error

    @property
    def name(self):
        return self.implementation.name

    @property
    def admin(self):
        return (self.host, self.layout.http_port)

    @property
    def public(self):
        return (self.host, self.layout.public_port)

    @property
    def url(self):
        """host:port, as the master gives it to clients."""
        return join_host_port(self.layout.ip, self.layout.http_port)

    @property
    def data_dir(self):
        return self.layout.data_dirs[0]

    @property
    def channel(self):
        if self._channel is None:
            self._channel = self.open_channel()
        return self._channel

    @property
    def rpc(self):
        return methods.volume_server(self.channel)

    def open_channel(self):
        """A channel with its own connection, which remembers no earlier failure."""
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", 0),
            ("grpc.enable_retries", 0),  # see supervisor/net/grpc_options.py
            ("grpc.max_receive_message_length", -1),
        ]
        target = join_host_port(self.host, self.layout.grpc_port)
        if self.tls is None:
            return grpc.insecure_channel(target, options=options)
        return self.tls.open_channel(target, options)

    def http(self, method, target, headers=(), body=None):
        """One request to the admin port, on its own connection."""
        return fetch(self.admin, method, target, headers, body, tls=self.tls and self.tls.context)

    def new_volume(self, **fields):
        """Allocates an empty volume on this server and returns its id."""
        volume_id = new_volume_id()
        self.allocate(volume_id, **fields)
        return volume_id

    def allocate(self, volume_id, *, replication="000", version=3, **fields):
        """Allocates the volume on this server. The fields are the RPC's."""
        request = volume_server_pb2.AllocateVolumeRequest(
            volume_id=volume_id, replication=replication, version=version, **fields
        )
        self.rpc.AllocateVolume(request, timeout=RPC_LIMIT_S)

    @property
    def volume_id(self):
        """A volume that the tests share."""
        if self._volume_id is None:
            self._volume_id = self.new_volume()
        return self._volume_id

    def volumes_on_disk(self):
        """The ids of the volumes in the server's directories."""
        found = (path for directory in self.layout.data_dirs for path in directory.glob("*.dat"))
        return {int(path.stem.rpartition("_")[2]) for path in found}

    def delete_all_but(self, kept):
        """Deletes the mounted volumes, except the ids in `kept` and the volume that the tests share."""
        for volume_id in self.volumes_on_disk() - kept - {self._volume_id}:
            try:
                self.rpc.VolumeDelete(volume_server_pb2.VolumeDeleteRequest(volume_id=volume_id), timeout=RPC_LIMIT_S)
            except grpc.RpcError as error:
                if "not found" not in error.details():
                    raise

    def new_fid(self, volume_id=None):
        """A file id that no test has used."""
        return f"{volume_id or self.volume_id},{next(_NEEDLE_IDS):04x}{COOKIE:08x}"

    def store(self, data, headers=(), *, fid=None, query=""):
        """Uploads `data` as a raw body and returns its file id."""
        fid = fid or self.new_fid()
        reply = self.http("PUT", f"/{fid}{query}", headers, data)
        assert reply.status == 201, reply
        return fid

    def read(self, fid):
        return self.http("GET", f"/{fid}")

    def is_registered(self):
        return self.url in self.master.registered_urls()

    def child_pids(self):
        """The process ids of the server's children, without its HTTP workers."""
        return [pid for pid in children_of(self.process.pid) if not is_worker(pid)]

    def worker_pids(self):
        """The process ids of the server's HTTP workers."""
        return [pid for pid in children_of(self.process.pid) if is_worker(pid)]

    def kill_child(self):
        """SIGKILL to the server's one child. Returns when the child is gone."""
        (pid,) = self.child_pids()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(pid), "the child to be gone")

    def open_child_channel(self):
        """A channel to the child itself, past the front."""

        def port():
            pids = self.child_pids()
            own = argument_of(self.process.pid, "port.grpc")
            found = argument_of(pids[0], "port.grpc") if len(pids) == 1 else None
            return found if found != own else None

        return grpc.insecure_channel(f"{LOOPBACK}:{wait_until(port, 'a child that has its own command line')}")

    def is_known(self, volume_id):
        """Whether the master knows that this server has the volume."""
        locations = self.master.get(f"/dir/lookup?volumeId={volume_id}").get("locations") or []
        return self.url in [location["url"] for location in locations]

    def restart(self):
        """Starts the server again after its end."""
        self.close_channel()
        self.process.end()
        self.start()

    def give_way_to(self, implementation):
        """Ends the server in good order. Another program then serves the same files at the same address."""
        self.stop()
        wait_until(lambda: not self.is_registered(), f"the master to forget {self.name}")
        self.become(implementation, self._weed, self.extra_flags)

    def become(self, implementation, weed, extra_flags=()):
        """Starts another program in the server's place, on the same directory and ports. The server must have ended."""
        self.implementation = implementation
        self._weed, self.extra_flags = weed, tuple(extra_flags)
        self.restart()

    def close_channel(self):
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def stop(self):
        """Ends the server in good order and returns its exit code."""
        self.close_channel()
        return self.process.stop()

    def end(self):
        """Ends the server in every case."""
        self.close_channel()
        self.process.end()

    def _serves(self):
        if self.process.exit_code is not None:
            raise RuntimeError(f"{self.name} ended with {self.process.exit_code}")
        try:
            if self.http("GET", "/healthz").status != 200:
                return False
            fetch(self.public, "GET", "/favicon.ico")
            with self.open_channel() as channel:
                grpc.channel_ready_future(channel).result(timeout=1.0)
        except (OSError, Disconnected, grpc.FutureTimeoutError):
            return False
        return True
