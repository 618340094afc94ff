"""Fixtures of the contract and chaos suites: one description of behaviour, run against each server of this machine.

`server` is the long-lived one of an implementation, shared by its tests, so a test leaves it as it found it: other
volume ids, no state changed for good. `fresh_server` makes one for a test that kills, stops or configures it.
Without a `weed` the Go implementations skip and say so, and the embedded master plays the master's part.

    VOLUME_SERVER_IMPL=go,proxy-go pytest tests/contract      these alone (see harness/implementations.py)
    VOLUME_SERVER_BINARY=/path/to/x pytest tests/contract     any program that takes the flags of upstream's Rust server
"""

import os
import shutil

import pytest
from harness import implementations
from harness.master import Master
from harness.processes import is_alive
from harness.server import VolumeServer

IMPLEMENTATIONS = implementations.chosen()
OWN_SERVERS = {"fresh_server", "fresh_server_of_module"}
"""The fixtures that start servers for some tests alone."""


def pytest_generate_tests(metafunc):
    if "implementation" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("only")
        starts_servers = not OWN_SERVERS.isdisjoint(metafunc.fixturenames)
        candidates = without_duplicates() if starts_servers else IMPLEMENTATIONS
        if metafunc.definition.get_closest_marker("native_rpcs") and IMPLEMENTATIONS is implementations.ALL:
            candidates = [*candidates, implementations.NATIVE_RPCS]
        is_meant = metafunc.definition.get_closest_marker("with_workers") and not starts_servers
        if is_meant and IMPLEMENTATIONS is implementations.ALL:
            candidates = [*candidates, implementations.NATIVE_WORKERS]
        meant = [one for one in candidates if marker is None or marker.args[0](one)]
        nothing = pytest.param(None, id="none", marks=pytest.mark.skip(reason="none of the chosen servers is meant"))
        wanted = [pytest.param(one, id=one.name) for one in with_one_skip(meant)] or [nothing]
        metafunc.parametrize("implementation", wanted, indirect=True, scope="session")


def without_duplicates():
    """The implementations for tests that start servers. With a Go program those with a native child are left out: two
    Python processes for each such test would take most of the suite's time. VOLUME_SERVER_IMPL overrides this.
    """
    if "VOLUME_SERVER_IMPL" in os.environ or implementations.find_weed()[0] is None:
        return IMPLEMENTATIONS
    return [one for one in IMPLEMENTATIONS if one.backend != "native"]


def with_one_skip(meant):
    """Without a `weed`, only the first implementation that needs one stays, and skips with the reason; the others would
    repeat it.
    """
    skipping = [one for one in meant if one.needs_weed] if implementations.find_weed()[0] is None else []
    return [one for one in meant if one not in skipping[1:]]


def pytest_configure(config):
    config.addinivalue_line("markers", "only(predicate): runs for those implementations that the predicate accepts")
    config.addinivalue_line("markers", "native_rpcs: runs in mixed with every native RPC native as well")
    config.addinivalue_line("markers", "with_workers: runs on a shared native server with HTTP workers as well")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure shows the ends of the logs of the test's servers."""
    report = yield
    if report.when != "teardown" and report.failed:
        for name, fixture in item.funcargs.items():
            for one in fixture.made if isinstance(fixture, ServerFactory) else [fixture]:
                if isinstance(one, VolumeServer | Master):
                    report.sections.append((f"log of {name} {one.process.log_path}", one.process.log_tail()))
    return report


@pytest.fixture(scope="session")
def weed():
    """The Go program's path, or None."""
    return implementations.weed_program()


@pytest.fixture(scope="session")
def implementation(request, weed):
    """The implementation that the test runs against."""
    if request.param.needs_weed and weed is None:
        pytest.skip(implementations.find_weed()[1])
    return request.param


@pytest.fixture(scope="session")
def master(weed, tmp_path_factory):
    """The master of this run."""
    made = Master(tmp_path_factory.mktemp("master"), weed)
    yield made
    made.process.end()


@pytest.fixture(scope="session")
def server(implementation, master, weed, tmp_path_factory):
    """The shared server of the implementation."""
    base = tmp_path_factory.mktemp(implementation.name)
    made = VolumeServer(implementation, base, master, weed)
    yield made
    made.stop()
    shutil.rmtree(base / "data")


@pytest.fixture(autouse=True)
def volumes_as_found(request):
    """Deletes the volumes that a test made on a shared server, which has room for only some."""
    used = [
        request.getfixturevalue(name) for name in ("server", "other_server", "source") if name in request.fixturenames
    ]
    before = [(one, one.volumes_on_disk()) for one in used if isinstance(one, VolumeServer)]
    yield
    for one, ids in before:
        if is_alive(one.process.pid):
            one.delete_all_but(ids)


class ServerFactory:
    """Starts servers of the test's implementation for this test alone."""

    def __init__(self, implementation, tmp_path, master, weed):
        self._implementation = implementation
        self._tmp_path = tmp_path
        self._master = master
        self._weed = weed
        self.made = []

    def __call__(self, *extra_flags, master=None, security="", tls=None):
        base = self._tmp_path / f"server{len(self.made)}"
        master = master or self._master
        made = VolumeServer(self._implementation, base, master, self._weed, extra_flags, security, tls)
        self.made.append(made)
        return made


@pytest.fixture
def fresh_server(implementation, tmp_path, master, weed):
    """A factory: fresh_server(*extra_flags, master=, security=, tls=) -> VolumeServer, ended with the test."""
    factory = ServerFactory(implementation, tmp_path, master, weed)
    yield factory
    for made in factory.made:
        made.end()


@pytest.fixture(scope="module")
def fresh_server_of_module(implementation, tmp_path_factory, master, weed):
    """As `fresh_server`, for servers that the tests of one module share."""
    factory = ServerFactory(implementation, tmp_path_factory.mktemp("servers"), master, weed)
    yield factory
    for made in factory.made:
        made.end()
