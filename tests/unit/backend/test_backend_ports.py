import socket

import pytest

from supervisor.backend.ports import LOOPBACK, BackendPorts, PortReservation


def listening(port):
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((LOOPBACK, port))
    made.listen()
    return made


def test_the_ports_differ_and_stay():
    with PortReservation() as reservation:
        ports = reservation.ports
        assert len({ports.http, ports.grpc, ports.public, ports.metrics}) == 4
        assert not reservation.refresh()
        assert reservation.ports == ports


def test_the_child_can_listen_on_a_held_port_again_and_again():
    with PortReservation() as reservation:
        for _ in range(3):
            with listening(reservation.ports.http) as server, socket.create_connection(server.getsockname()) as client:
                assert client.getpeername()[1] == reservation.ports.http


def test_nobody_is_given_a_held_port_by_the_kernel():
    with PortReservation() as reservation:
        given = []
        for _ in range(300):
            with socket.socket() as asked:
                asked.bind((LOOPBACK, 0))
                given.append(asked.getsockname()[1])
        assert reservation.ports.http not in given


def test_a_port_that_another_program_listens_on_is_replaced():
    with PortReservation() as reservation:
        before = reservation.ports
        with listening(before.grpc):
            assert reservation.refresh()
            after = reservation.ports
        assert after.grpc != before.grpc
        assert (after.http, after.public, after.metrics) == (before.http, before.public, before.metrics)


def test_closing_frees_the_ports():
    with PortReservation() as reservation:
        port = reservation.ports.http
    with socket.socket() as strict:
        strict.bind((LOOPBACK, port))


def test_no_port_at_all_leaves_nothing_open():
    with pytest.raises(OSError, match="assign"):
        PortReservation("192.0.2.1")


def test_each_port_has_a_name():
    assert set(BackendPorts.__slots__) == {"http", "grpc", "public", "metrics"}
