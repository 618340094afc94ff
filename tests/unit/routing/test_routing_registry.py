"""The rows against the descriptors: each RPC has one row, and the field that names its volume exists."""

from __future__ import annotations

import pytest
from google.protobuf.descriptor import FieldDescriptor

from native_handlers.http_model.message import Listener
from native_handlers.pb.methods import VOLUME_SERVER_METHODS
from supervisor.routing.registry import (
    MAX_PHASE,
    REFLECTION_PATHS,
    ROUTES,
    ROUTES_BY_NAME,
    AccessKind,
    Protocol,
    Route,
)

RPC_ROUTES = [route for route in ROUTES if route.protocol is Protocol.GRPC and route.name != "grpc.reflection"]
VOLUME_KINDS = {AccessKind.VOLUME_READ, AccessKind.VOLUME_WRITE, AccessKind.VOLUME_EXCLUSIVE}


def test_names_are_unique():
    assert len(ROUTES_BY_NAME) == len(ROUTES)


def test_every_rpc_has_a_row_and_every_row_an_rpc():
    assert {route.name for route in RPC_ROUTES} == {f"grpc.{name}" for name in VOLUME_SERVER_METHODS}
    assert len(RPC_ROUTES) == 49


@pytest.mark.parametrize("route", RPC_ROUTES, ids=lambda route: route.name)
def test_an_rpc_is_reached_by_its_path(route: Route):
    assert route.answers == VOLUME_SERVER_METHODS[route.name.removeprefix("grpc.")].path


@pytest.mark.parametrize("route", RPC_ROUTES, ids=lambda route: route.name)
def test_the_volume_field_is_in_the_request(route: Route):
    descriptor = VOLUME_SERVER_METHODS[route.name.removeprefix("grpc.")].request_class.DESCRIPTOR
    where = route.access.volume_id_in
    if where is None:
        assert not [field.name for field in descriptor.fields if field.name in {"volume_id", "volume_ids"}]
        return
    field = None
    for name in where.split("."):
        field = descriptor.fields_by_name[name]
        descriptor = field.message_type
    assert field is not None
    is_fid = where in {"file_ids", "from_file_ids"}
    assert field.type == (FieldDescriptor.TYPE_STRING if is_fid else FieldDescriptor.TYPE_UINT32)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_a_volume_is_named_exactly_where_one_is_touched(route: Route):
    assert (route.access.volume_id_in is not None) == (route.access.kind in VOLUME_KINDS)
    if route.protocol is Protocol.HTTP:
        assert route.access.volume_id_in in {None, "path"}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_what_touches_a_volume_is_a_data_route(route: Route):
    assert 0 <= route.phase <= MAX_PHASE
    if route.access.kind in VOLUME_KINDS:
        assert route.is_data


def test_each_http_route_belongs_to_one_listener():
    for route in ROUTES:
        if route.protocol is Protocol.HTTP:
            expected = Listener.PUBLIC if route.name.startswith("http.public.") else Listener.ADMIN
            assert route.listener is expected
        else:
            assert route.listener is None


def test_only_reflection_is_always_native():
    assert [route.name for route in ROUTES if route.is_always_native] == ["grpc.reflection"]
    assert all(path in ROUTES_BY_NAME["grpc.reflection"].answers for path in REFLECTION_PATHS)
