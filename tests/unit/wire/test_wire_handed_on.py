"""The field that names the client of a request which a worker hands on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from native_handlers.http_model.message import Listener
from supervisor.wire.handed_on import (
    CLIENT_FIELD,
    HandedOnClient,
    encode_client,
    parse_client,
    take_client_line,
    with_client_line,
)

HOSTS = st.sampled_from(["", "127.0.0.1", "2001:db8::1", "fe80::1%eth0"])
CLIENTS = st.builds(HandedOnClient, st.sampled_from(Listener), st.booleans(), st.integers(0, 65535), HOSTS)
CLIENT = HandedOnClient(Listener.PUBLIC, False, 4711, "10.0.0.1")
REQUEST = b"PUT /3,01637037d6 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"


@given(client=CLIENTS)
def test_a_client_arrives_as_it_was_sent(client):
    assert parse_client(encode_client(client)) == client
    assert take_client_line(with_client_line(REQUEST, client)) == (client, REQUEST)


@pytest.mark.parametrize("value", ["", "admin", "other 0 1 host", "admin 0 x host", "admin 0"])
def test_other_texts_name_no_client(value):
    with pytest.raises(ValueError, match=r"."):
        parse_client(value)
    request = b"GET / HTTP/1.1\r\n%b: %b\r\n\r\n" % (CLIENT_FIELD.encode(), value.encode())
    assert take_client_line(request) is None


def test_the_clients_own_field_of_that_name_comes_later_and_stays():
    own = with_client_line(REQUEST, HandedOnClient(Listener.ADMIN, True, 1, "192.0.2.1"))
    assert take_client_line(with_client_line(own, CLIENT)) == (CLIENT, own)


def test_only_the_first_field_is_taken():
    line = f"{CLIENT_FIELD}: {encode_client(CLIENT)}\r\n".encode()
    for request in (REQUEST, b"GET / HTTP/1.1\r\nHost: a\r\n%b\r\n" % line, b"GET / HTT", b"", line):
        assert take_client_line(request) is None
    whole = with_client_line(REQUEST, CLIENT)
    assert take_client_line(whole[: whole.index(b"10.0.0.1")]) is None
