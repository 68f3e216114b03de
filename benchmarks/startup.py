"""How long does the command line take before it does anything? Seconds over a bare interpreter, best and median of N, as JSON.

python benchmarks/startup.py [N]
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

COMMANDS = {"bare": ["-c", "pass"], "help": ["-m", "kdsearch", "--help"], "plugins": ["-m", "kdsearch", "plugins"]}


def seconds(arguments: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def main(n: int) -> None:
    for arguments in COMMANDS.values():
        seconds(arguments)  # bytecode and disk cache
    taken = {name: [seconds(arguments) for _ in range(n)] for name, arguments in COMMANDS.items()}
    bare = taken.pop("bare")
    print(
        json.dumps(
            {
                "n": n,
                "bare_s": {"min": min(bare), "median": statistics.median(bare)},
                "over_bare_s": {
                    name: {
                        "min": min(every) - min(bare),
                        "median": statistics.median(every) - statistics.median(bare),
                    }
                    for name, every in taken.items()
                },
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
