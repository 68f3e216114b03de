"""The one list of what kdsearch takes at most. What exceeds a limit is refused (exit 2) before it costs memory or time.

Imports the standard library only. docs/studies.md has the same list in words, and a test holds the two together.
"""

from __future__ import annotations

# Names that become files or keys: the study, teachers, roles, distillers, formats.
NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}"
NAME_IN_WORDS = "1 to 64 letters, digits, '_', '.' or '-', the first no '.' or '-'"
TERM = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}"  # of a distiller: weights call it `distiller.term`
TERM_IN_WORDS = "1 to 64 letters, digits, '_' or '-', the first no '-'"

# Text: a study, one of its values, a JSON file of a folder.
STUDY_BYTES = 1_000_000
STUDY_VALUES = 20_000  # keys and values, aliases filled in; the YAML reader takes about 40,000 a second
STUDY_DEPTH = 64
STUDY_TEXT = 10_000  # characters of one value
WHOLE = 2**63 - 1  # whole numbers
JSON_BYTES = 1 << 30
JSON_DEPTH = 100

# Numbers in a study that cost memory, threads or processes.
BATCH = 65_536  # samples
PROBE_BATCH = 4_096
THREADS = 256  # of one process: beyond some thousands the libraries crash
WORKERS = 256  # processes
EPOCHS = 100_000
TRIALS = 100_000
CANDIDATES = 10_000_000
KEPT = 10_000
SEEDS = 1_000

# Data.
CLASSES = 100_000
RESIZE = 1_024  # pixels a side
PIXELS = 89_478_485  # of one image: Pillow's own, beyond which it suspects a bomb
SIDES = 200  # longer by shorter side of an image
ARRAYS_BYTES = 1 << 36  # of an .npz file, or an IDX file unpacked
PICKLE_BYTES = 1 << 30
TABLE_BYTES = 1 << 30
TABLE_CELL = 1 << 24  # characters of a table's cell, or of a line of JSON
TABLE_COLUMNS = 10_000
WEIGHTS_BYTES = 1 << 38
ONNX_BYTES = 1 << 31  # protobuf holds no more
LINES_BYTES = 1 << 26  # of a file with one architecture a line
