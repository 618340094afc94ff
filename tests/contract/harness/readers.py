"""Clients that read the same files again and again, while something else happens to the volume."""

import threading

from support.waiting import LIMIT_S

AT_GO = {404, 500}
"""The answers of Go's server while shards or a volume move: for some seconds it asks those that held them before. A
native server in a cluster with Go's passes such answers on, where Go's server is the holder that the master names.
"""


class Readers:
    """Reads files from every server repeatedly. Every answer but the file with a 200, and what is allowed, is kept in
    `wrong`.
    """

    def __init__(self, servers, files, allowed=None):
        """`allowed`: other answers that are right at the moment; `AT_GO` beside Go's servers if not given."""
        self._servers, self._files = servers, files
        beside_go = any(server.name == "go" for server in servers)
        self._allowed = (AT_GO if beside_go else set()) if allowed is None else allowed
        self._over = threading.Event()
        self.wrong = []
        self.count = 0
        self._threads = [threading.Thread(target=self._run, args=(server,), daemon=True) for server in servers]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        for thread in self._threads:
            thread.join(LIMIT_S)
        assert not self.wrong, self.wrong[:5]
        assert self.count

    def _run(self, server):
        while not self._over.is_set():
            for fid, data in self._files.items():
                reply = server.read(fid)
                is_right = reply.status == 200 and reply.body == data
                self.count += is_right
                if not is_right and reply.status not in self._allowed:
                    self.wrong.append((server.name, server.url, fid, reply.status, len(reply.body)))
                if self._over.is_set():
                    return
