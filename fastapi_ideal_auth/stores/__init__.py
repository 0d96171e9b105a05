"""The stores: one protocol, several places to keep it."""

from .base import Applied, RefreshStore
from .memory import MemoryStore
from .sqlite import SQLiteStore

__all__ = ["Applied", "MemoryStore", "RefreshStore", "SQLiteStore"]
