"""Files that a user names: opened by one door, so that a FIFO, a device, a folder or a file too large is an error that names it.

And `write_bytes`: a file is written whole or not at all, and a full disk is a StorageError.
"""

from kdsearch.store.cache import cache_folder
from kdsearch.store.files import write_bytes
from kdsearch.store.inputs import below, content, entries, lies, opened, regular

__all__ = ["below", "cache_folder", "content", "entries", "lies", "opened", "regular", "write_bytes"]
