"""What botocore knows of S3's API, read once for all clients of a test process."""

from __future__ import annotations

from functools import cache


@cache
def share_models() -> None:
    """From now on botocore reads the description of an API once. Otherwise each new client reads it, for a tenth of a
    second of a processor.
    """
    import botocore.session  # noqa: PLC0415  takes a quarter of a second, and few tests want it

    botocore.session.create_loader = cache(botocore.session.create_loader)
