from typing import Final

NO_PRESSURE: Final[str]
FAULTS: Final[dict[int, tuple[str, str]]]
