from __future__ import annotations

import pytest
from support.fake_master import FakeMaster


@pytest.fixture
def fake_master():
    master = FakeMaster()
    yield master
    master.stop()


@pytest.fixture
def second_master():
    master = FakeMaster()
    yield master
    master.stop()
