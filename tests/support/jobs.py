"""Runs jobs of `native_handlers/runtime/content_threads.py` without threads."""


def finish(job):
    """Runs all steps of `job` and returns its result, or raises its error."""
    try:
        while True:
            next(job)
    except StopIteration as done:
        return done.value
