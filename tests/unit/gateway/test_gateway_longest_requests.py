"""The longest texts that a head has room for: none takes the event loop more than some milliseconds."""

from __future__ import annotations

import pytest
from support.processor_work import calls_worth

from native_handlers.http_model.message import Listener
from native_handlers.http_model.target import RequestTarget
from supervisor.routing.match import match_http
from supervisor.wire.errors import RemoteProtocolError
from supervisor.wire.forwarding import end_to_end
from supervisor.wire.http1 import ServerConnection
from supervisor.wire.http1_head import normalised_target

MOST_CALLS = 120_000
"""As much as so many calls of an empty function: five milliseconds and more, depending on the machine."""
LONG = 60_000


def asked_twice_for_its_redirect(path):
    """As for the answer, and for the counts of answers."""
    target = RequestTarget.parse(path)
    return target.canonical_target("GET") == target.canonical_target("GET")


def head_of(method, name, value):
    """The head of a request with that field, and what is passed on of it."""
    connection = ServerConnection()
    connection.receive_data(f"{method} / HTTP/1.1\r\nHost: x\r\n{name}: {value}\r\n\r\n".encode())
    return end_to_end(connection.next_event().headers)


def too_many_fields():
    with pytest.raises(RemoteProtocolError, match="more than 256"):
        head_of("GET", "A", "\r\na:b" * (LONG // 5))


TEXTS = {
    "a target of bytes beyond ASCII": lambda: normalised_target("GET", "/" + "\xe9" * LONG),
    "a whole address of them": lambda: normalised_target("GET", "http://x/" + "\xe9/" * (LONG // 2)),
    "a path of slashes": lambda: asked_twice_for_its_redirect("/" * LONG),
    "a path of quotes to be cleaned": lambda: asked_twice_for_its_redirect("//" + '"' * LONG),
    "a path of many segments": lambda: match_http(Listener.ADMIN, "GET", "/%2e" * (LONG // 4)),
    "a list of options of the connection": lambda: head_of("GET", "Connection", "a," * (LONG // 2)),
    "a list beside a length": lambda: head_of("PUT", "Content-Length: 1\r\nConnection", "a," * (LONG // 2)),
    "many segments below a fixed path": lambda: match_http(Listener.ADMIN, "GET", "/seaweedfsstatic" + "/a" * 30_000),
}


@pytest.mark.parametrize("work", TEXTS.values(), ids=TEXTS)
def test_no_text_of_a_client_takes_long(work):
    assert calls_worth(work) < MOST_CALLS


def test_a_value_of_many_words_costs_no_more_beside_a_length():
    assert calls_worth(lambda: head_of("PUT", "Content-Length: 1\r\nA", "b " * (LONG // 2))) < MOST_CALLS / 2


def test_many_more_fields_than_are_accepted_are_not_split():
    assert calls_worth(too_many_fields) < MOST_CALLS / 3
