"""HTTP workers: processes that accept from the server's sockets and forward. docs/workers.md has the design.

`pool` is the parent's side, and `spawn` starts workers for it. What a worker runs is put together in
`supervisor.assembly.worker`.
"""
