"""Files that a user names: opened by one door, so that a FIFO, a device, a folder or a file too large is an error that names it."""

from kdsearch.store.cache import cache_folder
from kdsearch.store.inputs import below, content, entries, lies, opened, regular

__all__ = ["below", "cache_folder", "content", "entries", "lies", "opened", "regular"]
