"""Which tokens are valid. PyJWT makes the tokens."""

from __future__ import annotations

import base64
import hmac
import json
import warnings
from itertools import count, islice

import jwt
import pytest
from support.processor_work import calls_worth
from support.security import check_token

from supervisor.wire.jwt import BadToken

KEY = b"key"
NOW_S = 1_000_000.5
FID = "3,01637037d6"


def make(key=KEY, algorithm="HS256", **claims):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return jwt.encode({"fid": FID, **claims}, key, algorithm)


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_a_good_token_passes(algorithm):
    check_token(make(algorithm=algorithm, exp=NOW_S + 1, nbf=NOW_S - 1), KEY, FID, NOW_S)


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"fid": "3,01637037d7"}, "the token is for"),
        ({"fid": FID + "_1"}, "the token is for"),
        ({"fid": None}, "the token is for ''"),
        ({"fid": 7}, "claim fid is no text"),
        ({"exp": NOW_S - 1}, "expired"),
        ({"exp": 1_000_000.9}, "expired"),
        ({"exp": 0}, "expired"),
        ({"nbf": NOW_S + 1}, "not valid yet"),
        ({"exp": "never"}, "claim exp is no number"),
        ({"exp": True}, "claim exp is no number"),
        ({"exp": "1000000"}, "expired"),
        ({"nbf": "1000001.0"}, "not valid yet"),
        ({"iat": "+5"}, "claim iat is no number"),
        ({"iat": " 5"}, "claim iat is no number"),
        ({"nbf": "1e999"}, "claim nbf is no number"),
        ({"exp": 1e300}, "expired"),
        ({"aud": [5]}, "claim aud is no list of texts"),
    ],
)
def test_a_token_for_something_else_or_another_time_does_not(claims, why):
    token = _unchecked(claims)
    with pytest.raises(BadToken, match=why):
        check_token(token, KEY, FID, NOW_S)


def _unchecked(claims, header='{"alg":"HS256"}', digest="sha256"):
    """PyJWT refuses to sign claims of the wrong type. The signature over these claims, and over `header`, is right."""
    parts = [header.encode(), json.dumps({"fid": FID, **claims}).encode()]
    text = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    signature = base64.urlsafe_b64encode(hmac.digest(KEY, text, digest)).rstrip(b"=")
    return (text + b"." + signature).decode()


@pytest.mark.parametrize("soon", [1_000_001, "1000001", "1.0000019e6", "1E9", 1_000_001.9, 9e18, None])
def test_a_time_may_be_a_text(soon):
    """As in Go, whose library reads both. More forms against a running `weed`: test_http_native_tokens_go.py."""
    check_token(_unchecked({"exp": soon, "nbf": "1e6", "iat": "-1.5"}), KEY, FID, NOW_S)


@pytest.mark.parametrize("claims", [{"aud": "a"}, {"aud": ["a", "b"]}, {"aud": None}, {"iss": None}, {"x": [{}]}])
def test_other_claims_may_have_what_go_reads(claims):
    check_token(_unchecked(claims), KEY, FID, NOW_S)


def test_a_time_counts_in_whole_seconds():
    check_token(make(nbf=1_000_000.9, exp=1_000_001), KEY, FID, NOW_S)


@pytest.mark.parametrize(
    "token",
    [
        "", "a.b", "a.b.c.d", "a.b.c", "....", "é.b.c", make(key=b"other"), make() + "x", make()[:-3],
        jwt.encode({"fid": FID}, None, "none"), make().replace(".", "=.", 1), "W10.W10.W10",
    ],
)  # fmt: skip
def test_what_is_no_token_of_ours_does_not_pass(token):
    with pytest.raises(BadToken):
        check_token(token, KEY, FID, NOW_S)


def test_a_header_over_an_hmac_signature_must_name_its_algorithm():
    with pytest.raises(BadToken, match="RS256"):
        check_token(_unchecked({}, '{"alg":"RS256"}'), KEY, FID, NOW_S)
    for named, digest in (("HS512", "sha256"), ("HS256", "sha384"), ("HS256", "sha512")):
        with pytest.raises(BadToken, match="another algorithm"):
            check_token(_unchecked({}, f'{{"alg":"{named}"}}', digest), KEY, FID, NOW_S)
    for named, digest in (("HS256", "sha256"), ("HS384", "sha384"), ("HS512", "sha512")):
        check_token(_unchecked({}, f'{{"alg":"{named}"}}', digest), KEY, FID, NOW_S)


@pytest.mark.slow
def test_a_header_is_read_only_where_the_signature_is_sound():
    """A client may send one of 60 kB: a tenth of a second, on the event loop.
    Slow: tokens of 60 kB, with each call counted.
    """
    headers = (f'{{"a":[{number},{"1," * 20_000}1],"alg":"HS256"}}' for number in count())
    check_token(_unchecked({}, next(headers)), KEY, FID, NOW_S)
    tokens = [f"{_unchecked({}, header)[:-3]}AAA" for header in islice(headers, 30)]

    def check():
        with pytest.raises(BadToken, match="another key"):
            check_token(tokens.pop(), KEY, FID, NOW_S)

    assert calls_worth(check) < 60_000
