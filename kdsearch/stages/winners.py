"""The winners are trained to their end; where every one fails, the next best takes their place, one at a time.

Which trainings at full length have failed is kept in a file, so that a run that was stopped does not train them again.
"""

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
FILE = "failed.json"


def failed_in(work: Path) -> Failed:
    """What has failed so far, in that order."""
    file = work / FILE
    found: Failed = read_json(file) if file.exists() else []
    return found


def with_failed(
    work: Path, failed: Failed, ranked: Mapping[str, Ranked], outcomes: Mapping[str, Outcome | str]
) -> Failed:
    """What had failed, and those of `outcomes` that did; kept in the file."""
    new = [
        {"name": name, "trial": ranked[name].trial["number"], "error": each}
        for name, each in outcomes.items()
        if isinstance(each, str) and all(name != known["name"] for known in failed)
    ]
    if new:
        write_json(work / FILE, [*failed, *new])
    return [*failed, *new]


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

    `beside` is trained with a sole winner, since it is of the one that ships; who takes another's place has to be given students of
    its own.

    Args:
        winners: none where all that began have failed already.

    Raises TrialError where none is through; the next run tries all anew.
    """
    failed = failed_in(work)
    known = {each["name"] for each in failed}
    in_turn = [winners, *({name: each} for name, each in spare.items())]
    for going in in_turn:
        if going.keys() <= known:
            continue
        with_it = beside if len(going) == 1 and going is winners else {}
        outcomes = trained({**going, **with_it})
        if any(isinstance(outcomes[name], Outcome) for name in going):
            return going, outcomes, failed
        for name in with_it:
            shutil.rmtree(work / name, ignore_errors=True)
        failed = with_failed(work, failed, ranked, {name: outcomes[name] for name in going})
        if going is not in_turn[-1]:
            tools.progress.more(1 + len(with_it))  # the next one, and what was of the failed one alone
            of, why = failed[-1]["trial"], failed[-1]["error"]
            tools.progress.say(f"distill: trial {of} failed ({why}), the next best takes its place")
    (work / FILE).unlink()
    raise TrialError(f"distilling the winner failed: {failed[0]['error']}")
