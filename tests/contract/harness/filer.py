"""An upstream filer and its shell: the contents that a cluster puts on volume servers, and the tools that examine
them.
"""

import os
import subprocess
from pathlib import Path

from harness.http1 import fetch
from harness.processes import ServerProcess, clean_environment
from support.ports import LOOPBACK, free_port
from support.waiting import wait_until

FILER_TOML = """[leveldb2]
enabled = true
dir = "{directory}"
"""
SHELL_LIMIT_S = 90.0


class Filer:
    """A running filer. Its names are in a leveldb of the test."""

    def __init__(self, base, weed, master):
        self._base = Path(base)
        config_dir = self._base / "config"
        config_dir.mkdir(parents=True)
        (config_dir / "filer.toml").write_text(FILER_TOML.format(directory=self._base / "names"))
        self._weed = weed
        self._master = master
        self.port, self.grpc_port = free_port(), free_port()
        command = [
            weed, "-logtostderr=true", f"-config_dir={config_dir}", "filer", f"-ip={LOOPBACK}", f"-ip.bind={LOOPBACK}",
            f"-port={self.port}", f"-port.grpc={self.grpc_port}", f"-master={master.address}", "-maxMB=1",
            f"-defaultStoreDir={self._base}", "-localSocket=" + str(self._base / "filer.sock"),
        ]  # fmt: skip
        self.process = ServerProcess(command, self._base / "filer.log", self._base)
        wait_until(self._serves, "the filer to serve", 60.0)

    def put(self, path, data, query="", content_type="application/octet-stream"):
        reply = self._http("PUT", path + query, [("Content-Type", content_type)], data)
        assert reply.status in {200, 201}, reply

    def get(self, path):
        reply = self._http("GET", path)
        assert reply.status == 200, reply
        return reply.body

    def delete(self, path):
        reply = self._http("DELETE", path)
        assert reply.status in {202, 204}, reply

    def shell(self, *lines):
        """The output of `weed shell` for these commands, within the cluster's lock."""
        done = subprocess.run(
            [
                self._weed, "-logtostderr=true", f"-config_dir={self._base / 'config'}", "shell",
                f"-master={self._master.address}", f"-filer={LOOPBACK}:{self.port}.{self.grpc_port}",
            ],
            input="\n".join(["lock", *lines, "unlock", "exit", ""]),
            capture_output=True,
            text=True,
            timeout=SHELL_LIMIT_S,
            check=False,
            cwd=self._base,
            env=clean_environment() | {"HOME": str(self._base), "TMPDIR": str(self._base), "PATH": os.environ["PATH"]},
        )  # fmt: skip
        return done.stdout + done.stderr

    def _http(self, method, path, headers=(), body=None):
        return fetch((LOOPBACK, self.port), method, path, headers, body)

    def _serves(self):
        if self.process.exit_code is not None:
            raise RuntimeError(f"the filer ended:\n{self.process.log_tail()}")
        try:
            return self._http("GET", "/?limit=1").status in {200, 404}
        except OSError:
            return False
