"""Which engine may work on a volume now, and how a volume changes hands. See docs/authority.md."""
