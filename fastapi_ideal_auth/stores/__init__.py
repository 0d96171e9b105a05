"""The stores: one protocol, several places to keep it."""

from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError
from .base import Applied, RefreshStore, unchanged
from .memory import MemoryStore
from .sqlite import SQLiteStore

if TYPE_CHECKING:
    from .redis import RedisStore
else:
    # Hidden from type checkers: to them a module's `__getattr__` makes every name a good one.
    def __getattr__(name: str) -> Any:
        if name != "RedisStore":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return _redis_store()


__all__ = ["Applied", "MemoryStore", "RedisStore", "RefreshStore", "SQLiteStore", "unchanged"]


def _redis_store() -> Any:
    """Imported when it is asked for: redis-py is an extra, and takes longer than all the rest.

    Without it the name is there all the same (``import *`` and tools ask for every name), and
    says what is missing when it is called.
    """
    try:
        from .redis import RedisStore
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "redis":
            raise
    else:
        return RedisStore
    return _Missing


class _Missing:
    def __init__(self, *arguments: object, **options: object) -> None:
        raise ConfigurationError(
            "RedisStore needs the redis package: pip install 'fastapi_ideal_auth[redis]'"
        )
