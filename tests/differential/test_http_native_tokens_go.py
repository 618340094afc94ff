"""Tokens of every form, to Go and to the native guard: each accepts the tokens that the other accepts. Slow: two Go
processes are started. Skipped without `weed`.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import time
from base64 import urlsafe_b64encode
from urllib.parse import quote

import pytest
from go_volume_server import go_volume_server
from harness.implementations import weed_program
from support.http_native import make_request
from support.waiting import LIMIT_S

from supervisor.config.config import HttpsClientConfig, JwtKey, SecurityConfig, TlsFiles
from supervisor.gateway.guard import Guard
from supervisor.routing.match import match_http

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(weed_program() is None, reason="no weed program: WEED_BINARY or PATH"),
]

KEY = "k" * 32
FID = "4,0112345678"
HEADER = b'{"alg":"HS256","typ":"JWT"}'
NOW_S = int(time.time())
SOON, LATE = NOW_S + 3_600, NOW_S - 3_600
HUGE = "1" + "0" * 400


def part(data):
    return urlsafe_b64encode(data).rstrip(b"=")


def signed(claims, header=HEADER, digest="sha256", key=KEY):
    text = part(header) + b"." + part(claims.encode() if isinstance(claims, str) else claims)
    return (text + b"." + part(hmac.digest(key.encode(), text, digest))).decode()


def with_claim(name, value):
    return signed(f'{{"fid":"{FID}","{name}":{value}}}')


TIMES = [
    str(SOON), f'"{SOON}"', f"{SOON}.9", f'"{SOON}.9"', f"{SOON / 1e9}e9", f'"{SOON / 1e9}e9"', f'"{SOON / 1e9}E+9"',
    str(LATE), f'"{LATE}"', f'"-{SOON}"', f"-{SOON}", "0", '"0"', "-0", "-1.5", "null", '"null"', "true", "[]", "{}",
    '""', '" 1"', f'" {SOON}"', f'"{SOON} "', f'"+{SOON}"', f'"0{SOON}"', '"0x7fffffff"', '"1_000"', '"NaN"', '"Inf"',
    "1e18", "9e18", "9.2233719e18", "9.223372e18", "9.3e18", "1e300", "1e308", "1e309", HUGE, f'"{HUGE}"', f'"-{HUGE}"',
    "-1e18", "-9.3e18", "-1e300", '"1e-400"', f"{SOON}{'0' * 0}.{'1' * 400}", r'"\u0031e99"', '"1e999"', f"[{SOON}]",
]  # fmt: skip
TOKENS = {
    **{f"{name} {value[:40]}": with_claim(name, value) for name in ("exp", "nbf", "iat") for value in TIMES},
    **{
        f"quoted {digest}": signed(f'{{"fid":"{FID}"}}', f'{{"alg":"{alg}"}}'.encode(), digest)
        for alg, digest in (
            ("HS256", "sha256"),
            ("HS384", "sha384"),
            ("HS512", "sha512"),
            ("HS256", "sha512"),
            ("hs256", "sha256"),
            ("none", "sha256"),
            ("RS256", "sha256"),
            ("", "sha256"),
            ("HS1", "sha1"),
        )
    },
    **{
        f"claims {text[:60]}": signed(text)
        for text in (
            "{}",
            "null",
            "[]",
            '"x"',
            "1",
            "",
            "{",
            f'{{"fid":"{FID}"',
            f'{{"fid":"{FID}"}} x',
            f' {{ "fid" : "{FID}" }} ',
            f'{{"FID":"{FID}"}}',
            f'{{"Fid":"{FID}"}}',
            f'{{"fid":"x","fid":"{FID}"}}',
            f'{{"fid":"{FID}","fid":"x"}}',
            f'{{"fid":"{FID}","fid":null}}',
            f'{{"fid":"x","FID":"{FID}"}}',
            '{"fid":null}',
            '{"fid":5}',
            f'{{"fid":["{FID}"]}}',
            f'{{"fid":"{FID}","exp":{LATE},"exp":{SOON}}}',
            f'{{"fid":"{FID}","exp":{SOON},"exp":{LATE}}}',
            f'{{"fid":"{FID}","exp":{LATE},"exp":null}}',
            f'{{"fid":"{FID}","EXP":{LATE}}}',
            f'{{"fid":"{FID}","nbf":{SOON},"NBF":null}}',
            r'{"fid":"4,\u00301\u003112345678"}',
            r'{"fid":"4,\u0030112345678"}',
            f'{{"fid":"{FID}\\u0000"}}',
            f'{{"fid":"{FID}","x":1e999}}',
            f'{{"fid":"{FID}","x":NaN}}',
            f'{{"fid":"{FID}","x":{"[" * 9_000}{"]" * 9_000}}}',
            f'{{"fid":"{FID}","x":{"[" * 10_000}{"]" * 10_000}}}',
            f'{{"fid":"{FID}","\u017fub":5}}',
            f'{{"fid":"{FID}","\u017fub":"5"}}',
            f'\ufeff{{"fid":"{FID}"}}',
            f'{{"fid":"{FID}",}}',
            f'{{"fid":"{FID}","x":"\t"}}',
            f'{{"fid":" {FID}"}}',
            f'{{"fid":"{FID}_1"}}',
            '{"fid":"4,0112345678","fid":{}}',
            f'{{"fid":"{FID}","RegisteredClaims":{{"exp":{LATE}}}}}',
        )
    },
    "claims in UTF-16": signed(f'{{"fid":"{FID}"}}'.encode("utf-16")),
    "claims with a bad byte": signed(b'{"fid":"' + FID.encode() + b'","x":"\xff"}'),
    **{
        f"{name} {value}": with_claim(name, value)
        for name in ("iss", "sub", "jti", "aud")
        for value in (
            '"x"',
            "5",
            "null",
            "[]",
            '["a","b"]',
            '["a",5]',
            "[null]",
            '[["a"]]',
            "{}",
            "true",
        )
    },
    **{
        f"header {header[:60]!r}": signed(f'{{"fid":"{FID}"}}', header)
        for header in (
            b'{"alg":"HS256"}',
            b'{"ALG":"HS256"}',
            b'{"alg":"HS256","typ":5}',
            b'{"typ":"x","alg":"HS256","crit":["exp"]}',
            b"null",
            b"[]",
            b"{}",
            b"",
            b'{"alg":null}',
            b'{"alg":["HS256"]}',
            b'{"alg":"none","alg":"HS256"}',
            b'{"alg":"HS256","alg":"none"}',
            b'{"alg":"HS256","alg":null}',
            b'{"alg":"HS256","x":1e999}',
            b'{"alg":"HS256","x":[{"y":1e308}]}',
            b' {"alg":"HS256"}\n',
            b'{"alg":"HS256"}x',
            b'{"alg":"HS\\u003256"}',
            b'{"alg":"HS256","x":"\xff"}',
            b'\xef\xbb\xbf{"alg":"HS256"}',
            b'{"alg":"HS256","x":' + b"[" * 9_000 + b"]" * 9_000 + b"}",
            b'{"alg":"HS256","kid":"k","jwk":{"k":"AAAA"}}',
        )
    },
    "another key": signed(f'{{"fid":"{FID}"}}', key="o" * 32),
}
GOOD = signed(f'{{"fid":"{FID}"}}')
HEAD, BODY, SIGNATURE = GOOD.split(".")
LINE = f"{HEAD}.{BODY[:4]}\n{BODY[4:]}"
TOKENS |= {
    "good": GOOD, "two parts": f"{HEAD}.{BODY}", "four parts": f"{GOOD}.", "one part": HEAD, "dots": "..",
    "padded": f"{GOOD}=", "padded parts": f"{HEAD}=.{BODY}.{SIGNATURE}", "spaces": f" {GOOD}", "end": f"{GOOD} ",
    "odd bits": GOOD[:-1] + chr(ord(GOOD[-1]) + 1), "short": GOOD[:-1], "long": GOOD + "A", "plus": GOOD[:-1] + "+",
    "line end in the signature": f"{HEAD}.{BODY}.{SIGNATURE[:9]}\r\n{SIGNATURE[9:]}",
    "line end in the claims": f"{LINE}.{part(hmac.digest(KEY.encode(), LINE.encode(), hashlib.sha256)).decode()}",
    "no signature": f"{HEAD}.{BODY}.", "umlaut": f"{GOOD[:-1]}\xe4",
}  # fmt: skip


@pytest.fixture(scope="module")
def ask_go(tmp_path_factory):
    keys = f'[jwt.signing.read]\nkey = "{KEY}"\n'
    with go_volume_server(weed_program(), tmp_path_factory.mktemp("go"), 4, security=keys) as (admin, _):

        def ask(target):
            connection = http.client.HTTPConnection("127.0.0.1", admin, timeout=LIMIT_S)
            try:
                connection.request("GET", target)
                return connection.getresponse().status
            except http.client.RemoteDisconnected:
                return 401
            finally:
                connection.close()

        yield ask


@pytest.fixture(scope="module")
def guard():
    none = TlsFiles()
    security = SecurityConfig(
        write_key=JwtKey(b"", 10),
        read_key=JwtKey(KEY.encode(), 10),
        ui_access=False,
        white_list=(),
        grpc=none,
        https=none,
        https_client=HttpsClientConfig(),
    )
    return Guard(security)


@pytest.mark.parametrize("token", TOKENS.values(), ids=[f"{at}" for at in range(len(TOKENS))])
def test_go_and_the_guard_take_the_same_tokens(ask_go, guard, token):
    target = f"/{FID}?jwt={quote(token.encode('latin-1', 'replace'), safe='')}"
    request = make_request(target=target)
    refusal = guard.refuse_token(match_http(request.listener, "GET", request.raw_path), request)
    assert (refusal is None) == (ask_go(target) == 404)
