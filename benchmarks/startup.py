"""How long does the command line take before it does anything? Seconds over a bare interpreter, wall and CPU, as JSON.

Wall time means something on an idle machine only (`load_per_core` well below 1); CPU time hardly depends on the neighbours.

    python benchmarks/startup.py [N]
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time

COMMANDS = {"bare": ["-c", "pass"], "help": ["-m", "kdsearch", "--help"], "plugins": ["-m", "kdsearch", "plugins"]}


def seconds(arguments: list[str]) -> tuple[float, float]:
    """(wall, CPU) of one start."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(n: int) -> None:
    for arguments in COMMANDS.values():
        seconds(arguments)  # bytecode and disk cache
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    taken = {name: [seconds(arguments) for _ in range(n)] for name, arguments in COMMANDS.items()}
    found: dict[str, object] = {"n": n, "load_per_core": load}
    for i, clock in enumerate(("wall", "cpu")):
        times = {name: [each[i] for each in every] for name, every in taken.items()}
        bare = times.pop("bare")
        found[f"bare_{clock}_s"] = {"min": min(bare), "median": statistics.median(bare)}
        found[f"over_bare_{clock}_s"] = {
            name: {
                "min": min(every) - min(bare),
                "median": statistics.median(every) - statistics.median(bare),
            }
            for name, every in times.items()
        }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
