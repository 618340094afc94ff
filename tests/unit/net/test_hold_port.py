import socket

import pytest

from supervisor.net.errors import CannotListen
from supervisor.net.listeners import hold_port, open_listener


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", ""])
async def test_a_held_port_is_given_to_nobody_and_can_be_listened_on(host):
    with hold_port(host, 0) as held:
        port = held.getsockname()[1]
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(("127.0.0.1", port))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))  # noqa: ASYNC251
        listener = open_listener(host, port)
        socket.create_connection(("127.0.0.1", port)).close()
        listener.close()


async def test_a_port_that_somebody_listens_on_cannot_be_held():
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(CannotListen, match="in use"):
        hold_port("127.0.0.1", server.getsockname()[1])
