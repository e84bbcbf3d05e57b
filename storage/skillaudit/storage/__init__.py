"""`open_storage()` and `open_reader()`: the halves composed, by settings or by URL."""

from skillaudit.storage.opening import open_reader, open_storage
from skillaudit.storage.session import Consistency, SessionStorage

__all__ = ["Consistency", "SessionStorage", "open_reader", "open_storage"]
