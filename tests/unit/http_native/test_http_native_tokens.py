"""Where the guard and the forwarding to replicas look for a request's token. Both call one function."""

from __future__ import annotations

import pytest
from support.http_native import make_request

from native_handlers.http import replicate
from native_handlers.http.tokens import token_of
from supervisor.gateway import guard

BACKSLASH = "\\"


def request(target="/3,01637037d6", *fields):
    return make_request(target=target, headers=fields)


@pytest.mark.parametrize(
    ("req", "token"),
    [
        (request(), ""),
        (request("/a?jwt=Q&jwt=R", ("Authorization", "Bearer B"), ("Cookie", "AT=C")), "Q"),
        (request("/a?jwt=", ("Authorization", "Bearer B"), ("Cookie", "AT=C")), "B"),
        (request("/a", ("Authorization", "bEaReR B")), "B"),
        (request("/a", ("Authorization", "BearerXB")), "B"),
        (request("/a", ("Authorization", "Bearer ")), ""),
        (request("/a", ("Authorization", "Basic abc"), ("Cookie", "AT=C")), "C"),
        (request("/a?x=jwt=&jwt=a%2Eb"), "a.b"),
        (request("/a?%6Awt=Q", ("Authorization", "Bearer B")), "Q"),
        (request("/a?jw%74=Q&jwt=R"), "Q"),
        (request("/a?jwt=&jwt=R", ("Authorization", "Bearer B")), "B"),
        (request("/a?jwt=Q%zz&jwt=R"), "R"),
        (request("/a?jwt=Q;jwt=S&jwt=R"), "R"),
        (request("/a?JWT=Q"), ""),
    ],
)
def test_where_a_token_is_looked_for(req, token):
    assert token_of(req) == token


@pytest.mark.parametrize(
    ("cookies", "token"),
    [
        (["a=1; AT=C; AT=D"], "C"),
        (["at=C"], ""),
        (["a=1", 'AT="C"'], "C"),
        (['prefs={"a":1}; AT=C'], "C"),
        (["a[b]=1;AT=C;"], "C"),
        (["=;;x; \t AT \t=C \t; y"], "C"),
        (['AT=C"D; AT=E'], "E"),
        ([f"AT=C{BACKSLASH}D; AT=E"], "E"),
        (['AT="'], ""),
        (["AT=\xe4; AT=E"], "E"),
        (["AT"], ""),
        (["AT=; AT=E"], ""),
        (["XAT=C"], ""),
    ],
)
def test_cookies_are_read_as_go_reads_them(cookies, token):
    assert token_of(request("/a", *(("Cookie", line) for line in cookies))) == token


def test_a_cookie_full_of_escapes_is_read_in_one_pass():
    """http.cookies decodes escapes one by one and copies the rest each time: seconds for this cookie."""
    line = 'a="' + r"\"" * 30_000 + '"; AT=C'
    assert token_of(request("/a", ("Cookie", line))) == "C"


def test_the_guard_and_replication_use_the_same_function():
    assert guard.token_of is replicate.token_of is token_of
