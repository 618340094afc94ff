"""What all tests share: two hypothesis profiles (HYPOTHESIS_PROFILE=deep looks longer), and a lack of threads."""

from __future__ import annotations

import os

import pytest
import trio
from hypothesis import settings

settings.register_profile("fast", max_examples=50, deadline=None)
settings.register_profile("deep", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))


@pytest.fixture
async def no_shared_threads():
    """The threads that a whole program shares are all taken, as if each waited for a disk that hangs.

    Ask for it as an argument: pytest-trio overlooks what is only marked as used.
    """
    limiter = trio.to_thread.current_default_thread_limiter()
    holders = [object() for _ in range(int(limiter.total_tokens))]
    for holder in holders:
        limiter.acquire_on_behalf_of_nowait(holder)
    yield
    for holder in holders:
        limiter.release_on_behalf_of(holder)
