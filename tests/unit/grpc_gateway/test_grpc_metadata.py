"""Forwarded metadata, and request ids."""

from __future__ import annotations

from supervisor.gateway.grpc_metadata import (
    forwarded_answer_metadata,
    forwarded_request_metadata,
    new_request_id,
    request_id_of,
    with_request_id,
)

DETAILS = ("grpc-status-details-bin", b"\x08\x05")


def test_requests_lose_what_belongs_to_the_hop_or_to_grpc():
    kept = (("a", "1"), ("a", "2"), ("b-bin", b"\0\xff"), ("authorization", "Bearer x"), ("x-amz-request-id", "i"))
    dropped = (
        ("user-agent", "grpc-go/1.80"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("host", "h"),
        ("connection", "close"),
        ("grpc-timeout", "1S"),
        ("grpc-accept-encoding", "gzip"),
        (":authority", "h"),
        DETAILS,
    )
    assert forwarded_request_metadata((*dropped, *kept)) == kept


def test_answers_keep_the_status_details():
    assert forwarded_answer_metadata((("grpc-encoding", "gzip"), DETAILS, ("a", "1"))) == (DETAILS, ("a", "1"))
    assert forwarded_answer_metadata(None) == ()


def test_the_first_request_id_counts():
    assert request_id_of((("a", "1"), ("x-amz-request-id", "x"), ("x-amz-request-id", "y"))) == "x"
    assert request_id_of((("x-amz-request-id", ""),)) == ""
    assert request_id_of(()) == ""


def test_a_request_id_replaces_what_was_there():
    before = (("x-amz-request-id", ""), ("a", "1"), ("x-amz-request-id", "z"))
    assert with_request_id(before, "new") == (("a", "1"), ("x-amz-request-id", "new"))
    assert with_request_id(before, "") == before


def test_new_request_ids_are_uuids_and_differ():
    first, second = new_request_id(), new_request_id()
    assert first != second
    assert [len(part) for part in first.split("-")] == [8, 4, 4, 4, 12]
