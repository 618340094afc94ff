"""Runs the product's own check over every directory that a storage test leaves."""

from support.checked_directories import checked_directories

__all__ = ["checked_directories"]
