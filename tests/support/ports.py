"""Loopback ports for this process alone: each is held by a bound socket until the process ends.

The socket never listens. It is bound without SO_REUSEADDR, so the kernel refuses a port that any socket has bound.
Afterwards it gets SO_REUSEADDR. So two processes never hold one port, whether or not a server listens there. The
intended server can listen, because all servers here set SO_REUSEADDR. (Two sockets that set it before they bind may
share a port until one of them listens.)
"""

import random
import socket

LOOPBACK = "127.0.0.1"
GRPC_PORT_DELTA = 10000
PAIRED_PORTS = range(11000, 22700)
"""Both ports of a pair are below those that the kernel gives to outgoing connections (32768 and up)."""
_HELD = []


def free_port():
    """A port that stays reserved for this process."""
    return _hold(0)


def free_ports(count):
    """Several ports that stay reserved for this process."""
    return [free_port() for _ in range(count)]


def free_port_pair():
    """A port and the port that is 10000 higher, where the gRPC port of an address without a suffix is."""
    for _ in range(1000):
        port = random.choice(PAIRED_PORTS)
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
    try:
        holder.bind((LOOPBACK, port))
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    except OSError:
        holder.close()
        raise
    _HELD.append(holder)
    return holder.getsockname()[1]
