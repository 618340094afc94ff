"""Waits for a state with a deadline: the only pause in these tests."""

import threading
import time

import trio

PAUSE_S = 0.005
LIMIT_S = 60.0
BREATH_S = 0.0002
"""The pause of a thread after each piece of work. A thread that makes short calls of the system without a pause may
keep the interpreter from all others: it takes the interpreter back before another thread has woken.
"""


def wait_until(condition, what="the condition", limit_s=LIMIT_S):
    """Polls until `condition()` is true and returns its result.

    Raises:
        TimeoutError: the state was not reached within `limit_s` seconds; the message has `what`.
    """
    deadline_s = time.monotonic() + limit_s
    while not (answer := condition()):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"waited {limit_s:g} s in vain for {what}")
        threading.Event().wait(PAUSE_S)
    return answer


async def until(condition, what="the condition", limit_s=LIMIT_S):
    """As `wait_until`, in a task: other tasks run between two looks.

    Raises:
        TimeoutError: as `wait_until`.
    """
    deadline_s = time.monotonic() + limit_s
    while not (answer := condition()):  # what other threads and programs do sets no trio event
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"waited {limit_s:g} s in vain for {what}")
        await trio.sleep(PAUSE_S)
    return answer


async def until_answer(ask, is_wanted, what="the wanted answer", limit_s=LIMIT_S):
    """Calls the async function `ask` until `is_wanted` is true of its result, and returns that result.

    Raises:
        TimeoutError: as `wait_until`; the message has the last result too.
    """
    answer = None
    with trio.move_on_after(limit_s):
        while not is_wanted(answer := await ask()):  # noqa: ASYNC110  another program changes it
            await trio.sleep(PAUSE_S)
        return answer
    raise TimeoutError(f"waited {limit_s:g} s in vain for {what}; the last answer: {answer!r}")
