"""Takes secrets out of text that is about to be logged. Pure.

What is looked for: tokens as upstream takes them (`?jwt=`, `Authorization`, the cookie AT), anything that has the form
of a JSON web token, and values under names that say what they are. Better one word too many than a usable token.
Source of the places: weed/security/jwt.go GetJwt.
"""

from __future__ import annotations

import re

HIDDEN = "<redacted>"

_VALUE = r"""[^\s"'&;,)\]}>]+"""
_NAMED = r"secret|password|passwd|private[._]key|(?:signing|read)[._]key"
_SECRETS = re.compile(
    rf"""
      (?P<query>    (?i: (?:\b|%3F|%26)jwt(?:=|%3D)) ) {_VALUE}
    | (?P<header>   (?i: \bauthorization["']?\s*[:=,]\s*["']? (?:bearer\s+|basic\s+)?) ) {_VALUE}
    | (?P<bearer>   (?i: \bbearer\s+) ) {_VALUE}
    | (?P<cookie>   \bAT= ) {_VALUE}
    | (?P<token>    ) \beyJ[\w-]{{4,}}\.[\w-]+(?:\.[\w-]*)?
    | (?P<named>    (?i: \b(?:{_NAMED})[\w.]*["']?\s*[:=]\s*["']?) ) {_VALUE}
    """,
    re.VERBOSE,
)


def redact(text: str) -> str:
    """`text` with every secret in it replaced by HIDDEN; what introduces it (`jwt=`) stays."""
    return _SECRETS.sub(lambda found: found[found.lastgroup or 0] + HIDDEN, text)
