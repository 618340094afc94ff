"""A whole cluster of chosen servers, and upstream's tools that drive it: `weed shell`, `weed benchmark`, any other. The
master's facts are read over gRPC (`VolumeList`), as the tools do. Everything ends with the test process.
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import grpc
from harness.implementations import ALL, FORWARDED_HTTP, NATIVE_HTTP, NATIVE_RPCS
from harness.master import Master
from harness.processes import ServerProcess, clean_environment
from harness.server import VolumeServer, new_volume_id
from support.ports import LOOPBACK, free_port_pair
from support.waiting import LIMIT_S, wait_until

from native_handlers.pb import master_pb2, methods

TOOL_LIMIT_S = 60.0
BY_NAME = {implementation.name: implementation for implementation in (*ALL, NATIVE_RPCS, NATIVE_HTTP, FORWARDED_HTTP)}


@dataclass(frozen=True)
class ToolResult:
    """The output of a tool, both streams together, and its exit code."""

    output: str
    exit_code: int


class MasterGroup:
    """Masters that elect a leader among them. Usable in place of a `Master`: `address` has all addresses."""

    def __init__(self, base, weed, count, *, security="", flags=()):
        ports = [free_port_pair() for _ in range(count)]
        volume_servers = ",".join(f"{LOOPBACK}:{http}.{rpc}" for http, rpc in ports)
        flags = (f"-peers={volume_servers}", "-electionTimeout=1s", "-heartbeatInterval=200ms", *flags)
        self.members = [
            Master(base / f"master{number}", weed, security, flags=flags, ports=pair, waits=False)
            for number, pair in enumerate(ports)
        ]
        self.leader()

    @property
    def running(self):
        return [member for member in self.members if member.process.exit_code is None]

    def leader(self, limit_s=LIMIT_S):
        """The member that a majority takes for the leader. Waits for one."""

        def agreed():
            named = [member.leader() for member in self.running]
            for member in self.running:
                if named.count(f"{LOOPBACK}:{member.http_port}") * 2 > len(self.members):
                    return member
            return None

        return wait_until(agreed, "a majority of the masters to agree on a leader", limit_s)

    @property
    def address(self):
        return ",".join(member.address for member in self.members)

    def get(self, target):
        return self.leader().get(target)

    def registered_urls(self):
        return self.leader().registered_urls()

    def end(self):
        for member in self.members:
            member.process.end()


class Cluster:
    """The servers that `add` starts, with one master: a new one, or the given one."""

    def __init__(self, base, weed, *, master=None, security="", tls=None, master_flags=(), master_ports=None):  # noqa: PLR0913
        self.base = Path(base)
        self.weed = weed
        self.security = security
        self.tls = tls
        self.master = master or Master(self.base / "master", weed, security, flags=master_flags, ports=master_ports)
        self.servers = []
        self._tool_home = self.base / "tools"
        self._tool_home.mkdir(parents=True)
        (self._tool_home / "security.toml").write_text(security)

    def add(self, name, *flags, security=None, **options):
        """Starts a server of the implementation `name`. Returns it when the master knows it."""
        base = self.base / f"{len(self.servers)}-{name}"
        security = self.security if security is None else security
        made = VolumeServer(BY_NAME[name], base, self.master, self.weed, flags, security, self.tls, **options)
        self.servers.append(made)
        return made

    def add_all(self, *wanted):
        """`add` for each (name, flag, ...), all at once. A server gets as many directories as -disk has names."""
        made = []
        for name, *flags in wanted:
            disks = next((flag for flag in flags if flag.startswith("-disk=")), "")
            made.append(self.add(name, *flags, directories=disks.count(",") + 1, waits=False))
        for server in made:
            server.wait_until_ready()
        return made

    @property
    def tool_master(self):
        """The master that tools use."""
        return self.master.leader() if isinstance(self.master, MasterGroup) else self.master

    def tool(self, *arguments, text="", limit_s=TOOL_LIMIT_S):
        """Runs `weed [the cluster's configuration] ARGUMENTS` with `text` as its input."""
        command = [self.weed, f"-config_dir={self._tool_home}", *map(str, arguments)]
        done = subprocess.run(
            command, input=text, text=True, timeout=limit_s, cwd=self._tool_home, env=self._environment(),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        return ToolResult(done.stdout, done.returncode)

    def shell(self, *commands, locks=True, limit_s=TOOL_LIMIT_S):
        """The output of `weed shell` for `commands`, between `lock` and `unlock` unless `locks` is False."""
        within = ("lock", *commands, "unlock") if locks else commands
        text = "".join(f"{command}\n" for command in (*within, "exit"))
        return self.tool("shell", f"-master={self.tool_master.address}", text=text, limit_s=limit_s).output

    def start_tool(self, name, *arguments):
        """A tool that serves, such as a filer. The caller ends it."""
        command = [self.weed, f"-config_dir={self._tool_home}", "-logtostderr=true", *arguments]
        return ServerProcess(command, self.base / f"{name}.log", self._tool_home)

    def topology(self):
        """The master's topology, as VolumeList gives it."""
        with self._master_channel() as channel:
            client = methods.master(channel)
            return client.VolumeList(master_pb2.VolumeListRequest(), timeout=LIMIT_S).topology_info

    def node(self, server):
        """The master's DataNodeInfo of `server`, or None."""
        return next((node for _, _, node in self.nodes() if node.id == server.url), None)

    def nodes(self):
        """(data center, rack, DataNodeInfo) of every server."""
        return [
            (center.id, rack.id, node)
            for center in self.topology().data_center_infos
            for rack in center.rack_infos
            for node in rack.data_node_infos
        ]

    def volumes(self, server):
        """The master's volumes of `server`: id -> VolumeInformationMessage."""
        node = self.node(server)
        disks = node.diskInfos.values() if node else []
        return {volume.id: volume for disk in disks for volume in disk.volume_infos}

    def holders(self, volume_id):
        """host:port of the servers to which the master would send a client, sorted."""
        found = self.master.get(f"/dir/lookup?volumeId={volume_id}").get("locations") or []
        return sorted(location["url"] for location in found)

    def allocate(self, *servers, **fields):
        """Allocates one volume with a copy on each of `servers`. Returns its id once the master knows all copies."""
        volume_id = new_volume_id()
        for server in servers:
            server.allocate(volume_id, **fields)
        urls = sorted(server.url for server in servers)
        wait_until(lambda: self.holders(volume_id) == urls, f"the master to know volume {volume_id} on {urls}")
        return volume_id

    def end(self):
        for server in self.servers:
            server.end()
        if isinstance(self.master, MasterGroup):
            self.master.end()
        else:
            self.master.process.end()

    def _master_channel(self):
        target = f"{LOOPBACK}:{self.tool_master.grpc_port}"
        options = [
            ("grpc.enable_http_proxy", 0),
            ("grpc.enable_retries", 0),  # see supervisor/net/grpc_options.py
            ("grpc.use_local_subchannel_pool", 1),
        ]
        if self.tls is None:
            return grpc.insecure_channel(target, options)
        return self.tls.open_channel(target, options)

    def _environment(self):
        return clean_environment() | {"HOME": str(self._tool_home), "TMPDIR": str(self._tool_home)}
