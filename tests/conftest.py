"""Shared by all tests: three profiles, compiled modules, a lack of threads, and fixtures of `support`.

HYPOTHESIS_PROFILE=deep runs more examples of each property than the usual profile. HYPOTHESIS_PROFILE=quick runs fewer,
and one case of each parametrised test.
"""

from __future__ import annotations

import gc
import os
import sys
from importlib import import_module

import pytest
import trio
from hypothesis import HealthCheck, settings

FIXTURES = ("support.clocks", "support.files", "support.stores")
"""The modules with fixtures for all tests."""

COLLECTION_THRESHOLDS = 20_000, 20, 20
"""See `gc.set_threshold`."""

# How long an example takes says how busy the machine is.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", UNHURRIED, max_examples=5)
settings.register_profile("fast", UNHURRIED, max_examples=50)
settings.register_profile("deep", UNHURRIED, max_examples=2000)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "fast")
settings.load_profile(PROFILE)


def pytest_configure(config):
    """Has modules compiled once, also where PYTHONDONTWRITEBYTECODE is set: then beside pytest's cache. Loads fixtures.

    The suite starts hundreds of servers, and each would compile as many modules, which takes longer than its start.
    """
    if sys.dont_write_bytecode:
        compiled = str(config.rootpath / ".pytest_cache" / "compiled")
        sys.dont_write_bytecode, sys.pycache_prefix = False, compiled
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = compiled
    if config.option.dist != "no" and not config.option.collectonly and not hasattr(config, "workerinput"):
        return  # this process hands tests out to workers, and need not load what the tests use
    for module in FIXTURES:
        config.pluginmanager.register(import_module(module), module)


def pytest_collection():
    """Stops Python's collector of cycles while tests are collected: nearly all that is made then stays."""
    gc.disable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """In the profile quick, leaves out all but the first case of each test, of those that -m and -k have left.

    A test has several cases by its own parameters and by those of its fixtures.
    """
    if PROFILE != "quick":
        return
    first = {}
    for item in items:
        first.setdefault(item.nodeid.partition("[")[0], item)
    kept = set(first.values())
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


def pytest_collection_finish():
    """Sets apart what was collected, thousands of tests and their modules, from the collector of cycles.

    They stay until the end, and each full collection would go over all of them. The collector then begins less often
    than usual: a test makes few cycles and many objects.
    """
    gc.freeze()
    gc.set_threshold(*COLLECTION_THRESHOLDS)
    gc.enable()


@pytest.fixture
async def no_shared_threads():
    """Takes all threads that a program shares by default, as if each waited for a disk that hangs.

    Request it as an argument: pytest-trio ignores it in usefixtures.
    """
    limiter = trio.to_thread.current_default_thread_limiter()
    holders = [object() for _ in range(int(limiter.total_tokens))]
    for holder in holders:
        limiter.acquire_on_behalf_of_nowait(holder)
    yield
    for holder in holders:
        limiter.release_on_behalf_of(holder)
