"""The distribution's version, here because `importlib.metadata` alone would take longer to load than all of the producer."""

from typing import Final

VERSION: Final = "0.1.0"
