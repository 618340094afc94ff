"""The white list, entry by entry, as upstream's guard reads an entry."""

from __future__ import annotations

import pytest

from supervisor.wire.whitelist import Whitelist


@pytest.mark.parametrize(
    ("entries", "host", "is_allowed"),
    [
        ([], "1.2.3.4", True),
        (["1.2.3.4"], "1.2.3.4", True),
        (["1.2.3.4"], "1.2.3.5", False),
        (["1.2.3.4"], "", False),
        (["10.0.0.0/8"], "10.255.0.1", True),
        (["10.0.0.0/8"], "11.0.0.1", False),
        (["10.1.2.3/8"], "10.9.9.9", True),
        (["10.0.0.0/8", "1.2.3.4"], "1.2.3.4", True),
        (["::1"], "::1", True),
        (["::1"], "0:0:0:0:0:0:0:1", False),
        (["fd00::/8"], "fd12::1", True),
        (["fd00::/8"], "10.0.0.1", False),
        (["10.0.0.0/8"], "::ffff:10.0.0.1", True),
        (["10.0.0.0/8"], "fe80::1%eth0", False),
        (["10.0.0.0/8"], "some.host", False),
        (["fe80::/10"], "fe80::1", True),
        (["fe80::/10"], "fe80::1%eth0", False),
        (["fe80::1"], "fe80::1%eth0", False),
        (["fe80::1%eth0"], "fe80::1%eth0", True),
        (["::ffff:10.0.0.0/104"], "10.9.9.9", True),
        (["::ffff:10.0.0.0/104"], "11.0.0.1", False),
        (["::/0"], "10.0.0.1", False),
        ([""], "10.0.0.1", False),
        (["", "10.0.0.1"], "10.0.0.1", True),
        (["some.host"], "some.host", True),
        ([" 1.2.3.4"], "1.2.3.4", False),
    ],
)
def test_who_is_allowed(entries, host, is_allowed):
    assert Whitelist.parse(entries).allows(host) is is_allowed


@pytest.mark.parametrize(
    "entry",
    [
        "10.0.0.0/33", "10.0.0.0/255.0.0.0", "x/8", "10.0.0.0/", "/8", "10.0.0.0/-1", " 10.0.0.0/8", "10.0.0.0/8 ",
        "fe80::%eth0/10",
    ],
)  # fmt: skip
def test_a_network_that_is_none_is_skipped_and_named(entry):
    whitelist = Whitelist.parse([entry, "1.2.3.4"])
    assert whitelist.skipped == (entry,)
    assert whitelist.allows("1.2.3.4")
    assert not whitelist.allows("10.0.0.1")


def test_a_list_of_nothing_but_bad_networks_is_empty_as_upstream():
    whitelist = Whitelist.parse(["10.0.0.0/33"])
    assert whitelist.is_empty
    assert whitelist.allows("8.8.8.8")
