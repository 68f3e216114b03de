"""What the second process of a training may do."""

import os
import signal
from pathlib import Path

from kdsearch.engine.ranks import joined
from kdsearch.errors import StudyError
from kdsearch.training.ranks import arrived


def told_twice(place, world=2):
    """As the first process does."""
    with joined(arrived(place), place["rank"], world, "cpu") as ranks:
        return {"outcome": [ranks.told(place["rank"]), ranks.told("again")]}


def dies_early(place):
    os._exit(3)


def refuses_early(place):
    return {"ends": StudyError("the study is gone", path="data.use").facts()}


def dies_at_work(place):
    with joined(arrived(place), place["rank"], 2, "cpu") as ranks:
        ranks.told(place["rank"])
        os.kill(os.getpid(), signal.SIGKILL)


def fails_at_work(place):
    with joined(arrived(place), place["rank"], 2, "cpu") as ranks:
        ranks.told(place["rank"])
    return {"failed": "term 'kd' is nan in phase 'distill', epoch 0, step 4"}


def waits_for_ever(place, pid):
    Path(pid).write_text(str(os.getpid()))
    with joined(arrived(place), place["rank"], 2, "cpu") as ranks:
        ranks.told(place["rank"])
        ranks.told("never answered")
