"""`weed-volume-py version`: this program's version, and that of the backend that would be started here."""

from __future__ import annotations

import platform
import sys
from typing import TYPE_CHECKING

from native_handlers.runtime.version import OWN_VERSION, UPSTREAM_COMPATIBLE_VERSION
from supervisor.backend.errors import BackendError
from supervisor.backend.version import ask_version
from supervisor.cli.engine_choice import choose_engine
from supervisor.cli.gather import gather
from supervisor.config.config import Mode, NativeBackend
from supervisor.config.errors import UsageError
from supervisor.config.flags import VOLUME_FLAGS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def run_version(argv: Sequence[str], environ: Mapping[str, str], cwd: Path) -> int:
    """Prints two lines. Takes -backend and -mode. Returns 1 where a backend is found but does not answer."""
    facts = f"behaves as SeaweedFS {UPSTREAM_COMPATIBLE_VERSION}, Python {platform.python_version()}, {sys.platform}"
    print(f"weed-volume-py {OWN_VERSION} ({facts})")
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
