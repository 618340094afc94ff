"""The token in cookies is found as by a plain reading of Go's rules (net/http/cookie.go readCookies), step by step."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from native_handlers.http.tokens import choose_token

COOKIES = ("AT=a", "AT", "AT=", 'AT="b c"', " AT = d ", "AT=\\", "A=T", 'AT="', "B=AT=e", "", "AT=f\t")
LINES = st.text('AT=; \t"\\a,\xe9', max_size=16) | st.lists(st.sampled_from(COOKIES), max_size=5).map(";".join)


def plainly_read(lines):
    for line in lines:
        for part in line.split(";"):
            name, _, value = part.strip(" \t").partition("=")
            if name.strip(" \t") != "AT":
                continue
            if len(value) > 1 and value.startswith('"') and value.endswith('"'):
                value = value[1:-1]
            if all(" " <= char <= "~" and char not in '";\\' for char in value):
                return value
    return ""


@given(st.lists(LINES, max_size=3))
@example(['AT=""'])
@example(["AT= a "])
@example(['AT=" a "'])
@example(["AT=a\tb", "AT=c"])
def test_the_first_well_formed_cookie_is_the_token(lines):
    assert choose_token("", "", lines) == plainly_read(lines)
