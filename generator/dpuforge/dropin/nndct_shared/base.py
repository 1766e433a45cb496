"""Names that scripts import from nndct_shared.base: the store of global values and its keys."""

from typing import Any


class GlobalMap:
    """Values by key, for the whole process."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def set_map(self, key: str, value: Any) -> None:
        """Store a value."""
        self._values[key] = value

    def get_ele(self, key: str) -> Any:
        """Return a value, or None."""
        return self._values.get(key)

    def del_ele(self, key: str) -> None:
        """Forget a value."""
        self._values.pop(key, None)


class NNDCT_KEYS:
    """Keys that scripts use with GLOBAL_MAP; any other attribute is an error, since the emulator stores nothing."""

    LOGGER = "nndct_logger"
    VERBOSE_LEVEL = "verbose_level"
    LOG_LEVEL = "log_level"


GLOBAL_MAP = GlobalMap()

__all__ = ["GLOBAL_MAP", "NNDCT_KEYS"]
