"""The master of the servers under test: a real one if there is a `weed`, else the embedded one."""

import sys
from pathlib import Path

from harness.http1 import fetch
from harness.processes import ServerProcess
from support.ports import LOOPBACK, free_port_pair
from support.waiting import wait_until


class Master:
    """A running master; `address` is the form that servers are given.

    Args:
        flags: of `weed master`, after ours; the last one counts.
        ports: its HTTP and gRPC port; free ones when not given.
        config: other files of its configuration, by name.
        waits: False returns before there is a leader, as the first of several masters must.
    """

    def __init__(self, base, weed, security="", *, flags=(), ports=None, waits=True, config=None):  # noqa: PLR0913  a test's choices
        self.http_port, self.grpc_port = ports or free_port_pair()
        self._flags = tuple(flags)
        self.directory = Path(base)
        (self.directory / "mdir").mkdir(parents=True)
        (self.directory / "config").mkdir()
        (self.directory / "config" / "security.toml").write_text(security)
        for name, text in (config or {}).items():
            (self.directory / "config" / name).write_text(text)
        self.is_embedded = weed is None
        self._command = self._embedded_command() if weed is None else self._go_command(weed)
        self.launch()
        if waits:
            self.wait_for_leader()

    def launch(self):
        """Starts the program without waiting for it."""
        self.process = ServerProcess(self._command, self.directory / "master.log", self.directory)

    def start(self):
        self.launch()
        self.wait_for_leader()

    def wait_for_leader(self):
        wait_until(self._is_ready, f"the master to name a leader; its log:\n{self.process.log_tail()}")

    @property
    def address(self):
        return f"{LOOPBACK}:{self.http_port}.{self.grpc_port}"

    @property
    def http(self):
        return (LOOPBACK, self.http_port)

    def get(self, target):
        reply = fetch(self.http, "GET", target)
        return reply.json()

    def nodes(self):
        """The master's facts of each registered volume server."""
        topology = self.get("/dir/status").get("Topology", {})
        return [
            node
            for center in topology.get("DataCenters") or []
            for rack in center.get("Racks") or []
            for node in rack.get("DataNodes") or []
        ]

    def registered_urls(self):
        """host:port of each volume server that is registered."""
        return [node["Url"] for node in self.nodes()]

    def volume_count(self, url):
        """How many volumes the server at `url` (host:port) has for this master; 0 for an unregistered server."""
        return next((node["Volumes"] for node in self.nodes() if node["Url"] == url), 0)

    def leader(self):
        """host:port of the leader for this master; "" while there is none or the master does not answer."""
        try:
            return str(self.get("/cluster/status").get("Leader") or "").rpartition(".")[0]
        except (OSError, ValueError):
            return ""

    def _is_ready(self):
        if self.process.exit_code is not None:
            raise RuntimeError(f"the master ended:\n{self.process.log_tail()}")
        try:
            return bool(self.get("/cluster/status").get("Leader"))
        except (OSError, ValueError):
            return False

    def _own_flags(self):
        return [f"-ip={LOOPBACK}", f"-port={self.http_port}", f"-port.grpc={self.grpc_port}"]

    def _go_command(self, weed):
        config_dir = self.directory / "config"
        tail = ["-mdir=mdir", "-peers=none", "-volumeSizeLimitMB=1024", "-defaultReplication=000", "-telemetry=false"]
        return [weed, f"-config_dir={config_dir}", "master", *self._own_flags(), *tail, *self._flags]

    def _embedded_command(self):
        return [sys.executable, "-m", "supervisor.cli.main", "master", *self._own_flags()]
