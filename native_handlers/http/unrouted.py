"""Requests that reach no handler upstream. Source: Go's server (its parser, ServeMux), which sees them first."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from native_handlers.http.paths import canonical_target, is_well_formed
from native_handlers.http.reply import bad_request, redirect

if TYPE_CHECKING:
    from native_handlers.http.message import Request, Response


def answer_unrouted(request: Request) -> Response | None:
    """400 to a path that cannot be read, 307 to one that is not canonical, None to a request that a handler gets."""
    if not is_well_formed(request):
        return bad_request()
    target = canonical_target(request)
    return None if target is None else redirect(request, HTTPStatus.TEMPORARY_REDIRECT, target)
