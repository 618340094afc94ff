"""Objects of tiers, in a file system that fails what a test plans."""

from __future__ import annotations

import time

from native_handlers.storage.remote.tier_files import TierFiles
from support.files import PlannedFiles


class PlannedTierFiles(PlannedFiles, TierFiles):
    """`PlannedFiles`, whose arguments `plan` are, with the objects of `tiers`."""

    def __init__(self, tiers, *, clock_s=time.monotonic, **plan):
        PlannedFiles.__init__(self, **plan)
        TierFiles.__init__(self, tiers, clock_s)
