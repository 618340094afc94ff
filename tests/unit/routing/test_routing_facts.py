"""The rows of routes, compared with the descriptors, with the gateways that read them, and with one another."""

from __future__ import annotations

import pytest

from native_handlers.grpc.handlers import BYTES_HANDLERS, GRPC_HANDLERS
from native_handlers.http_model.headers import CommonHeaders
from native_handlers.http_model.message import Listener
from native_handlers.pb.methods import VOLUME_SERVER_METHODS
from supervisor.routing.match import match_grpc
from supervisor.routing.native import NATIVE_HTTP, native_names
from supervisor.routing.registry import (
    FLIP_GROUPS,
    REFLECTION,
    ROUTES,
    ROUTES_BY_NAME,
    UNKNOWN_RPC,
    AccessKind,
    AfterForward,
    BeforeForward,
    Gate,
    Leaves,
    PathId,
    Pool,
    Protocol,
    Sharing,
    TokenKey,
)

HTTP = [route for route in ROUTES if route.protocol is Protocol.HTTP]
RPCS = [route for route in ROUTES if route.protocol is Protocol.GRPC and route is not REFLECTION]


def names_where(condition):
    return {route.name for route in ROUTES if condition(route)}


@pytest.mark.parametrize("route", RPCS, ids=lambda route: route.name)
def test_streams_run_among_the_long_calls(route):
    method = VOLUME_SERVER_METHODS[route.rpc_name]
    if method.client_streaming or method.server_streaming:
        assert route.pool is Pool.LONG
    assert route.pool is not Pool.NONE


def test_unary_calls_that_count_as_streams():
    long = {route.rpc_name for route in RPCS if route.pool is Pool.LONG}
    streams = {
        name for name, method in VOLUME_SERVER_METHODS.items() if method.client_streaming or method.server_streaming
    }
    assert long - streams == {
        "FetchAndWriteNeedle",
        "ScrubEcVolume",
        "ScrubVolume",
        "VolumeConsolidateIndex",
        "VolumeEcShardsCopy",
        "VolumeEcShardsGenerate",
        "VolumeEcShardsRebuild",
        "VolumeEcShardsToVolume",
        "VolumeTailReceiver",
    }


def test_requests_that_may_be_large():
    assert {route.rpc_name for route in ROUTES if route.takes_large_requests} == {
        "BatchDelete",
        "ReceiveFile",
        "WriteNeedleBlob",
    }


def test_over_http_the_white_list_and_the_write_key_are_for_what_writes():
    writes = {route.name for route in HTTP if route.access.kind is AccessKind.VOLUME_WRITE}
    assert writes == {"http.write", "http.delete"}
    assert {route.name for route in HTTP if route.gate is Gate.WHITE_LIST} == writes
    assert names_where(lambda route: route.token is TokenKey.WRITE) == writes


def test_over_http_the_read_key_is_for_reads_and_for_what_falls_to_the_object_handler():
    reads = {route.name for route in HTTP if route.access.kind is AccessKind.VOLUME_READ}
    assert names_where(lambda route: route.token is TokenKey.READ) == reads | {"http.stats"}


@pytest.mark.parametrize("route", HTTP, ids=lambda route: route.name)
def test_the_object_handlers_answers_are_counted_and_carry_cors_headers(route):
    is_fixed = any(not path.endswith("/") for path in route.paths)
    assert route.is_counted == (not is_fixed)
    assert (route.common_headers is CommonHeaders.CORS) == (not is_fixed)


@pytest.mark.parametrize("listener", Listener)
def test_each_path_and_each_method_of_a_listener_is_one_routes(listener):
    routes = [route for route in HTTP if route.listener is listener]
    paths = [path for route in routes for path in route.paths]
    methods = [method for route in routes if not route.paths for method in route.methods]
    assert len(paths) == len(set(paths))
    assert len(methods) == len(set(methods))
    assert len([route for route in routes if not route.paths and not route.methods]) == 1
    assert all(path.count("/") == 2 for path in paths if path.endswith("/"))


def test_an_exact_path_is_answered_by_every_method():
    assert not [route.name for route in HTTP if route.methods and any(not path.endswith("/") for path in route.paths)]


def test_an_rpc_has_no_facts_of_http_and_http_none_of_an_rpc():
    for route in ROUTES:
        if route.protocol is Protocol.GRPC:
            assert not any((route.paths, route.methods, route.is_counted, route.is_health, route.is_status_page))
            assert route.token is TokenKey.NONE
            assert route.common_headers is CommonHeaders.NONE
        else:
            assert route.pool is Pool.NONE
            assert route.leaves is Leaves.NOTHING
            assert route.before_forward is BeforeForward.NOTHING
            assert not any((route.source, route.takes_large_requests, route.takes_volume_away))


def test_what_happens_after_a_forwarded_call():
    found = {route.after_forward: route.name for route in ROUTES if route.after_forward is not AfterForward.NOTHING}
    assert found == {
        AfterForward.LEAVE: "grpc.VolumeServerLeave",
        AfterForward.NOTE_STATE: "grpc.SetState",
        AfterForward.ASK_OTHER_HOLDERS: "http.delete",
    }


def test_what_a_call_leaves_behind_is_about_its_volumes():
    for route in ROUTES:
        if route.leaves is not Leaves.NOTHING or route.takes_volume_away:
            assert route.access.names_volumes, route.name


@pytest.mark.parametrize("route", [route for route in RPCS if route.source], ids=lambda route: route.name)
def test_the_field_that_names_a_source_is_in_the_request(route):
    assert route.source.field in VOLUME_SERVER_METHODS[route.rpc_name].request_class.DESCRIPTOR.fields_by_name


@pytest.mark.parametrize("route", [route for route in RPCS if route.access.collection_in], ids=lambda route: route.name)
def test_the_field_that_names_a_collection_is_in_the_request(route):
    assert route.access.collection_in in VOLUME_SERVER_METHODS[route.rpc_name].request_class.DESCRIPTOR.fields_by_name


def test_each_group_has_several_routes_and_all_of_them_work_on_volumes():
    for group, names in FLIP_GROUPS.items():
        assert len(names) > 1, group
        assert names_where(lambda route, group=group: group in route.flips_with) == set(names)
        assert all(ROUTES_BY_NAME[name].is_data for name in names)
    assert {group for route in ROUTES for group in route.flips_with} == set(FLIP_GROUPS)


def test_routes_that_one_engine_alone_answers_touch_the_whole_store():
    for route in ROUTES:
        if route.shared is Sharing.NATIVE:
            assert route.access.kind is AccessKind.STORE, route.name


def test_what_no_route_is_counted_as_is_in_no_table():
    assert UNKNOWN_RPC.name not in ROUTES_BY_NAME
    assert match_grpc(UNKNOWN_RPC.answers) is None
    assert (UNKNOWN_RPC.gate, UNKNOWN_RPC.pool) == (Gate.ANYONE, Pool.NONE)


def test_handlers_are_handlers_of_routes():
    assert native_names() <= set(ROUTES_BY_NAME)
    assert not set(BYTES_HANDLERS) & set(GRPC_HANDLERS)
    assert set(NATIVE_HTTP) == {route.name for route in HTTP}


def test_routes_that_store_a_body_and_routes_that_parse_an_id_before_the_token():
    assert names_where(lambda route: route.is_upload) == {"http.write"}
    parsed = {route.name: route.parsed_before_token for route in ROUTES}
    assert {name: path_id for name, path_id in parsed.items() if path_id is not PathId.NONE} == {
        "http.write": PathId.VOLUME,
        "http.delete": PathId.FILE,
    }


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_a_volume_is_in_the_path_of_http_requests_alone(route):
    assert route.access.is_volume_in_path == (route.access.volume_id_in == "path")
    assert route.protocol is Protocol.HTTP or not route.access.is_volume_in_path
