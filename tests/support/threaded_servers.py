"""A server of the standard library in a thread, which ends as soon as it is asked to."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from socketserver import BaseServer

LOOK_S = 0.01
"""How often the server looks whether it is to end. It would look every half a second by default."""
MOST_WAITING = 100
"""How many connections wait to be accepted at most."""


@contextmanager
def running(server: BaseServer):
    """Serves in a thread until the block ends; then the server's socket is closed too."""
    # Five by default, and the sixth of several clients waits for a second until the kernel tries again.
    server.socket.listen(MOST_WAITING)
    thread = threading.Thread(target=server.serve_forever, args=(LOOK_S,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
