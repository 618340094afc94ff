"""``weed-volume-py version``: our version, and that of the backend which would be started here."""

from __future__ import annotations

import platform
import sys
from typing import TYPE_CHECKING

from native_handlers.version import UPSTREAM_COMPATIBLE_VERSION, own_version
from supervisor.backend.errors import BackendError
from supervisor.backend.version import ask_version
from supervisor.cli.config import Mode, NativeBackend
from supervisor.cli.engine_choice import choose_engine
from supervisor.cli.errors import UsageError
from supervisor.cli.flags import VOLUME_FLAGS
from supervisor.cli.gather import gather

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def run_version(argv: Sequence[str], environ: Mapping[str, str], cwd: Path) -> int:
    """Prints two lines; takes -backend and -mode. Returns 1 where a backend is found but does not answer."""
    facts = f"behaves as SeaweedFS {UPSTREAM_COMPATIBLE_VERSION}, Python {platform.python_version()}, {sys.platform}"
    print(f"weed-volume-py {own_version()} ({facts})")
    parts = gather(argv, environ, cwd, VOLUME_FLAGS, {"mode": Mode.PROXY.value})
    choice = choose_engine(parts.values, environ, cwd, lambda _: True)
    if parts.values.is_given("backend") and parts.values.problems:
        raise UsageError(*parts.values.problems)
    if choice.backend is None:
        print("backend: none was found")
        return 0
    if choice.backend is NativeBackend.NATIVE:
        print("backend: this program")
        return 0
    try:
        print(f"backend: {choice.backend} {ask_version(choice.backend, environ)}")
    except BackendError as error:
        print(f"backend: {error}", file=sys.stderr)
        return 1
    return 0
