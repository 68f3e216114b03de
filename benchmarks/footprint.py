"""How much code one small study runs: files and functions of ours that are entered, by room, in the order of the stages.

    python benchmarks/footprint.py [--json]

A reader who follows one candidate passes through some of these; fewer are better, and none should be there twice.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PLACES = (ROOT / "kdsearch", ROOT / "plugins" / "kdsearch_plugins", ROOT / "search_spaces" / "kdsearch_spaces")
SETS = ("run.executor={use: inprocess}",)


def entered() -> tuple[set[CodeType], Any]:
    """Run the study; the functions that were called, and its final JSON."""
    sys.path.insert(0, str(ROOT))
    from tests.stages.tiny import run_tiny

    seen: set[CodeType] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            seen.add(frame.f_code)

    with tempfile.TemporaryDirectory() as folder:
        threading.setprofile(note)
        sys.setprofile(note)
        try:
            result = run_tiny(Path(folder), *SETS)
        finally:
            sys.setprofile(None)
            threading.setprofile(None)  # type: ignore[arg-type]
    return seen, result


def ours(codes: set[CodeType]) -> set[CodeType]:
    """Functions of this project; module bodies, lambdas and comprehensions are no functions that a reader looks up."""
    return {
        code
        for code in codes
        if any(Path(code.co_filename).is_relative_to(place) for place in PLACES) and not code.co_name.startswith("<")
    }


def room(code: CodeType) -> str:
    parts = Path(code.co_filename).relative_to(ROOT).parts
    return "/".join(parts[:2]) if len(parts) > 2 else parts[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    codes = ours(entered()[0])
    files = {code.co_filename for code in codes}
    functions, places = Counter(room(code) for code in codes), Counter[str]()
    for file in files:
        places[room(next(code for code in codes if code.co_filename == file))] += 1
    found = {
        "files": len(files),
        "functions": len(codes),
        "rooms": {name: [places[name], n] for name, n in functions.items()},
    }
    if asked.json:
        print(json.dumps(found))
        return
    print(f"{found['files']} files, {found['functions']} functions")
    for name, n in functions.most_common():
        print(f"  {name:40} {places[name]:4} files {n:5} functions")


if __name__ == "__main__":
    main()
