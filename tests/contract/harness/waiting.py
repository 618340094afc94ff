"""Waiting for a state with a deadline: the only pause in this suite."""

import threading
import time

PAUSE_S = 0.01


def wait_until(condition, what, limit_s=20.0):
    """Polls until `condition()` is true and returns what it gave; fails naming `what` after `limit_s`."""
    deadline_s = time.monotonic() + limit_s
    while not (answer := condition()):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"waited {limit_s:g} s in vain for {what}")
        threading.Event().wait(PAUSE_S)
    return answer
