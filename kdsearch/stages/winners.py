"""The winners are trained to their end; where every one fails, the next best takes their place, one at a time."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kdsearch.errors import TrialError
from kdsearch.stages.choice import Ranked
from kdsearch.store.files import read_json, write_json
from kdsearch.training.request import Outcome, Request
from kdsearch.training.tools import Tools

Failed = list[dict[str, Any]]  # name, number of the trial, error


def through(
    winners: dict[str, Request],
    spare: Mapping[str, Request],
    beside: Mapping[str, Request],
    ranked: Mapping[str, Ranked],
    trained: Callable[[Mapping[str, Request]], dict[str, Outcome | str]],
    tools: Tools,
    work: Path,
) -> tuple[dict[str, Request], dict[str, Outcome | str], Failed]:
    """The first of `winners` and each of `spare` of which one is through, what its trainings came to, and what failed before.

    What has failed is kept in a file, so that a run that was stopped does not train it again. `beside` is trained with a sole
    winner, since it is of the one that ships; whose place another takes has to be given students of its own.

    Raises TrialError where none is through; the next run tries all anew.
    """
    file = work / "failed.json"
    failed: Failed = read_json(file) if file.exists() else []
    known = {each["name"] for each in failed}
    in_turn = [winners, *({name: each} for name, each in spare.items())]
    for going in in_turn:
        if going.keys() <= known:
            continue
        with_it = beside if len(going) == 1 and not failed else {}
        outcomes = trained({**going, **with_it})
        if any(isinstance(outcomes[name], Outcome) for name in going):
            return going, outcomes, failed
        for name in with_it:
            shutil.rmtree(work / name, ignore_errors=True)
        failed += [
            {"name": name, "trial": ranked[name].trial["number"], "error": outcomes[name]}
            for name in going
            if name not in known
        ]
        write_json(file, failed)
        if going is not in_turn[-1]:
            of, why = failed[-1]["trial"], failed[-1]["error"]
            tools.progress.say(f"distill: trial {of} failed ({why}), the next best takes its place")
    file.unlink()
    raise TrialError(f"distilling the winner failed: {failed[0]['error']}")
