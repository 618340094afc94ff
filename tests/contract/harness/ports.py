"""Loopback ports that no other test run gets: held by a bound socket that never listens until this process ends.

Servers can listen on a held port since they all set SO_REUSEADDR; see supervisor/backend/ports.py for why that works.
"""

import random
import socket

LOOPBACK = "127.0.0.1"
GRPC_PORT_DELTA = 10000
_HELD = []


def free_port():
    """A port that stays this process's own."""
    return _hold(0)


def free_port_pair():
    """A port and the one that is 10000 higher, which is where an address without a suffix says that gRPC is."""
    for _ in range(1000):
        port = random.randint(20000, 32000)
        try:
            held = _hold(port)
        except OSError:
            continue
        try:
            return held, _hold(port + GRPC_PORT_DELTA)
        except OSError:
            _HELD.pop().close()
    raise OSError("no pair of free ports 10000 apart was found")


def _hold(port):
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        holder.bind((LOOPBACK, port))
        if port:  # a port that was asked for may be listened on with SO_REUSEADDR; one that the kernel gave is not
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((LOOPBACK, port))
                probe.listen()
    except OSError:
        holder.close()
        raise
    _HELD.append(holder)
    return holder.getsockname()[1]
