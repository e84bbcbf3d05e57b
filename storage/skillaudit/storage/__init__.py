"""`open_storage()`, `open_reader()` and `open_operations()`: the halves composed, by settings or by URL."""

from typing import TYPE_CHECKING, Any

from skillaudit.storage.opening import open_reader, open_storage
from skillaudit.storage.session import Consistency, SessionStorage

if TYPE_CHECKING:
    from skillaudit.storage.operations import open_operations

__all__ = ["Consistency", "SessionStorage", "open_operations", "open_reader", "open_storage"]


def __getattr__(name: str) -> Any:
    # What works on the file needs DuckDB, which a reader over HTTP does not.
    if name == "open_operations":
        from skillaudit.storage.operations import open_operations

        return open_operations
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
