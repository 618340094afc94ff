"""The engines of one node: the native store, the managed backend, or both with the authority between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.records import dataclass

if TYPE_CHECKING:
    from native_handlers.storage.store import Store
    from supervisor.assembly.backend import ManagedBackend
    from supervisor.authority.authority import Authority


@dataclass(frozen=True, slots=True)
class Engines:
    """The engines that a node has. `authority` is set exactly when both have volumes."""

    store: Store | None
    backend: ManagedBackend | None
    authority: Authority | None = None

    @property
    def open_volumes(self) -> int:
        """How many volumes this process has open now; see `Store.open_count`."""
        return 0 if self.store is None else self.store.open_count
