"""Small unary RPCs: how many a second a server answers, to many callers at once and to one who waits for each answer.

VolumeStatus of an empty volume: a look-up and a short message. Many callers are h2load (from nghttp2), for a client in
Python would be the limit itself; one caller is grpcio's client, in the same process for each server.
"""

import re
import struct
import subprocess
import tempfile
import time
from pathlib import Path

from bench.found import H2LOAD

from native_handlers.pb import methods, volume_server_pb2

CONNECTIONS, STREAMS_EACH = 4, 8
SLACK_S = 20
PATH = methods.VOLUME_SERVER_METHODS["VolumeStatus"].path


def calls_at_once(server, duration_s):
    """Calls a second of 32 callers. Needs h2load. Ends the bench when a call fails."""
    request = volume_server_pb2.VolumeStatusRequest(volume_id=server.volume_id)
    return _run_h2load(server.layout.grpc_port, request.SerializeToString(), duration_s)


def calls_in_turn(server, duration_s):
    """Calls a second of one caller."""
    request = volume_server_pb2.VolumeStatusRequest(volume_id=server.volume_id)
    with server.open_channel() as channel:
        call = methods.volume_server(channel).VolumeStatus
        call(request, timeout=SLACK_S)
        began_s, done = time.monotonic(), 0
        while (passed_s := time.monotonic() - began_s) < duration_s:
            call(request, timeout=SLACK_S)
            done += 1
    return done / passed_s


def _run_h2load(port, message, duration_s):
    with tempfile.NamedTemporaryFile() as body:
        Path(body.name).write_bytes(b"\0" + struct.pack(">I", len(message)) + message)
        command = [H2LOAD, f"-D{round(duration_s * 1000)}ms", f"-c{CONNECTIONS}", f"-m{STREAMS_EACH}", "-t1"]
        command += ["-d", body.name, "-H", "content-type: application/grpc", "-H", "te: trailers"]
        command.append(f"http://127.0.0.1:{port}{PATH}")
        ended = subprocess.run(command, check=True, capture_output=True, text=True, timeout=duration_s + SLACK_S)
    # gRPC's status is in the trailers, which h2load does not look at: a refused call has an empty body.
    data = re.search(r"traffic: .*\(([\d]+)\) data", ended.stdout)
    done, failed = re.search(r"(\d+) succeeded, (\d+) failed", ended.stdout).groups()
    if int(failed) or not int(data[1]):
        raise SystemExit(f"calls failed: the figures would mean nothing\n{ended.stdout}")
    return int(done) / duration_s
