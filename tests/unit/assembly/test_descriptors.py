"""How descriptors are divided, and that the soft limit is raised."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from native_handlers.storage.disk.open_limit import VOLUME_DESCRIPTORS
from supervisor.assembly.descriptors import GRPC_DESCRIPTORS, MAX_COUNTED, SHARE_DESCRIPTORS, DescriptorPlan

LIMITS = [256, 1024, 4096, 20_000, 65_536, MAX_COUNTED]


def taken(plan: DescriptorPlan, volumes: int) -> int:
    """All descriptors in use when every part is as full as possible."""
    return (
        plan.reserve
        + plan.links
        + volumes * VOLUME_DESCRIPTORS
        + plan.http_connections(volumes)
        + plan.grpc_connections(volumes) * GRPC_DESCRIPTORS
    )


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("needs", [{}, {"is_forwarding": True}, {"is_forwarding": True, "is_sharing": True}])
def test_all_parts_together_keep_to_the_limit_up_to_the_most_new_volumes(limit, needs):
    plan = DescriptorPlan(limit, **needs)
    for volumes in (0, 1, plan.open_limit.most_new // 2, plan.open_limit.most_new):
        assert taken(plan, volumes) <= limit


@pytest.mark.parametrize("limit", LIMITS)
def test_connections_shrink_as_volumes_grow_and_never_below_a_floor(limit):
    plan = DescriptorPlan(limit)
    bounds = [plan.http_connections(volumes) for volumes in range(0, limit, max(limit // 50, 1))]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[-1] == plan.http_connections(10 * limit) >= min(limit // 12, 1500)
    assert plan.grpc_connections(10 * limit) >= 2


def test_volumes_that_are_there_leave_at_least_half_the_reserve():
    plan = DescriptorPlan(1024)
    assert plan.open_limit.most_found * VOLUME_DESCRIPTORS + plan.reserve // 2 <= 1024
    assert plan.open_limit.most_new < plan.open_limit.most_found


def test_the_log_says_how_far_the_limit_reaches():
    text = DescriptorPlan(1024).describe(7)
    assert text == (
        "1024 open files allowed: room for 352 volumes (7 are open), now for 613 HTTP and 68 gRPC connections"
    )


def test_where_there_is_no_room_for_volumes_the_log_says_what_more_of_them_need():
    text = DescriptorPlan(1024).describe(352)
    assert text.endswith("; for more volumes allow 2 open files each and 3584 besides: 4992 for 704")


def test_volumes_are_shared_with_workers_only():
    alone, sharing = (DescriptorPlan(20_000, is_forwarding=True, is_sharing=one) for one in (False, True))
    assert alone.shared_volumes == 0
    assert sharing.shared_volumes == 20_000 // 8 // 6
    assert sharing.shared_volumes * SHARE_DESCRIPTORS <= sharing.reserve - alone.reserve


@pytest.mark.parametrize("needs", [{}, {"is_forwarding": True}, {"is_forwarding": True, "is_sharing": True}])
@pytest.mark.parametrize("volumes", [1, 1000, 20_000, 300_000])
def test_the_limit_that_is_named_is_enough(volumes, needs):
    needed = DescriptorPlan(0, **needs).needed(volumes)
    assert DescriptorPlan(needed, **needs).open_limit.most_new >= volumes


def test_the_soft_limit_is_raised_to_the_hard_one():
    program = """
import resource
from supervisor.assembly.descriptors import raise_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 300))
assert raise_limit() == 300, raise_limit()
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (300, 300)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_refusal_to_raise_it_is_logged_and_no_more(monkeypatch, caplog):
    from supervisor.assembly import descriptors  # noqa: PLC0415

    def refuse(*_):
        raise PermissionError("not here")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (512, 1024))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert descriptors.raise_limit() == 512
    assert "the soft limit of 512 open files cannot be raised to the hard one, 1024: not here" in caplog.text
