"""YAML 1.2 scalars and what they are: in 1.1, `on`, `yes` and `010` were something else."""

SCALARS = [
    ("on", "on"),
    ("yes", "yes"),
    ("true", True),
    ("1e-4", 1e-4),
    ("1.5", 1.5),
    ("16", 16),
    ("'16'", "16"),
    ("~", None),
    ("", None),
    ("-3", -3),
    ("stage[-1]", "stage[-1]"),
    ("1:30", "1:30"),
]
