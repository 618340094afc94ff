"""Shared by the tests of several folders: fakes, builders, waiting and ports."""
