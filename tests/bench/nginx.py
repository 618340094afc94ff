"""nginx as the yardstick for forwarding: keep-alive to the backend, no cache, no log."""

from bench.found import NGINX
from harness.http1 import Disconnected, fetch
from harness.processes import ServerProcess
from support.ports import LOOPBACK, free_port
from support.waiting import wait_until

CONFIG = """
daemon off;
worker_processes {workers};
pid {directory}/nginx.pid;
error_log stderr error;
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_max_body_size 0;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  keepalive_requests 100000000;
  upstream backend {{ server {backend_host}:{backend_port}; keepalive 64; keepalive_requests 100000000; }}
  server {{
    listen {host}:{port};
    location / {{
      proxy_pass http://backend;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_request_buffering off;
    }}
  }}
}}
"""


class Nginx:
    """A running nginx in front of `backend` (host, port); `address` is where it listens."""

    def __init__(self, directory, backend, workers=1):
        directory.mkdir(parents=True)
        self.address = (LOOPBACK, free_port())
        config = directory / "nginx.conf"
        config.write_text(
            CONFIG.format(
                directory=directory,
                workers=workers,
                host=self.address[0],
                port=self.address[1],
                backend_host=backend[0],
                backend_port=backend[1],
            )
        )
        command = [NGINX, "-p", directory, "-c", config]
        self.process = ServerProcess(command, directory / "nginx.log", directory)
        wait_until(self._answers, f"nginx to answer; its log:\n{self.process.log_tail()}")

    def _answers(self):
        try:
            return fetch(self.address, "GET", "/healthz").status == 200
        except (OSError, Disconnected):
            return False
