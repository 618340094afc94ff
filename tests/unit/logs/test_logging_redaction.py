from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.logs.formats import redact

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJmaWQiOiIzLDAxIn0.c2lnbmF0dXJlLTEyMzQ1Njc4"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"GET /3,01?jwt={TOKEN}&width=5 401", "GET /3,01?jwt=<redacted>&width=5 401"),
        ("GET /3,01?a=1&JWT=abc", "GET /3,01?a=1&JWT=<redacted>"),
        ("/x?redirect=%3Fjwt%3Dabc", "/x?redirect=%3Fjwt%3D<redacted>"),
        (f"Authorization: Bearer {TOKEN}", "Authorization: Bearer <redacted>"),
        ("('authorization', 'Basic dXNlcjpwdw==')", "('authorization', 'Basic <redacted>')"),
        ("headers: Authorization=abc, X=1", "headers: Authorization=<redacted>, X=1"),
        ("sent BEARER abc.def", "sent BEARER <redacted>"),
        ("Cookie: a=b; AT=abc; c=d", "Cookie: a=b; AT=<redacted>; c=d"),
        (f"token {TOKEN} is expired", "token <redacted> is expired"),
        ('key = "x" in jwt.signing.key = "abc"', 'key = "x" in jwt.signing.key = "<redacted>"'),
        ("{'password': 'abc'}", "{'password': '<redacted>'}"),
        ("secret_access_key=abc", "secret_access_key=<redacted>"),
    ],
)
def test_secrets_are_hidden_and_the_rest_stays(text, shown):
    assert redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "GET /3,01637037d6?readDeleted=true",
        "wrong jwt",
        "authorization failed",
        "read the signing key from security.toml",
        "access: volume read",
        "looked at=5 of FORMAT=3",
        "the bearer",
        "eyJ is how tokens begin",
    ],
)
def test_other_text_is_left_alone(text):
    assert redact(text) == text


@given(before=st.text(max_size=20), after=st.text(max_size=20))
def test_a_token_never_survives(before, after):
    assert TOKEN not in redact(f"{before} {TOKEN} {after}")
    assert "s3cr3t" not in redact(f"{before}?jwt=s3cr3t {after}")


@given(st.text(max_size=200))
def test_redacting_twice_is_redacting_once(text):
    assert redact(redact(text)) == redact(text)
