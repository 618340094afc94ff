"""The native server with points in a hand-over at which a test can hold it: failpoint_server.py DIRECTORY
[argument...]. A point is named ENGINE.STEP.WHEN, such as `backend.close.before`. The server holds there if DIRECTORY
has a file of that name: the server renames the file to NAME.reached, and waits for NAME.go. WHEN is `before` or `after`
the step, or `lost`: after the step, whose answer then gets lost. The child is restarted without much delay, however
often it was killed.
"""

import sys
import threading
from pathlib import Path

from supervisor.authority import holders
from supervisor.authority.errors import After, HolderFailed
from supervisor.backend import child
from supervisor.backend.restart_policy import Delay
from supervisor.cli.main import main

STEPS = {"look": "form_of", "close": "close_volume", "open": "open_volume"}
LIMIT_S = 60.0
PAUSE_S = 0.005


class Failpoints:
    def __init__(self, directory):
        self._directory = directory

    def reach(self, name):
        """Returns whether the point was armed. Returns when the test lets the server continue."""
        try:
            (self._directory / name).rename(self._directory / f"{name}.reached")
        except FileNotFoundError:
            return False
        for _ in range(int(LIMIT_S / PAUSE_S)):
            if (self._directory / f"{name}.go").exists():
                return True
            threading.Event().wait(PAUSE_S)
        raise AssertionError(f"{name} was held for too long")

    def wrap(self, cls, engine):
        for step, method in STEPS.items():
            setattr(cls, method, self._held(getattr(cls, method), f"{engine}.{step}"))

    def _held(self, original, name):
        def step(holder, volume_id, *arguments):
            self.reach(f"{name}.before")
            result = original(holder, volume_id, *arguments)
            self.reach(f"{name}.after")
            if self.reach(f"{name}.lost"):
                raise HolderFailed(volume_id, "waiting for", "the answer was lost", After.UNKNOWN)
            return result

        return step


if __name__ == "__main__":
    points = Failpoints(Path(sys.argv[1]))
    points.wrap(holders.NativeHolder, "native")
    points.wrap(holders.BackendHolder, "backend")
    child.next_step = lambda *_: Delay(0.05)
    sys.exit(main(sys.argv[2:]))
