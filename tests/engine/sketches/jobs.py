"""What runs in a process of its own: a sketch, until it is through or kills itself."""

import json
import os
import signal
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file, save_file

import kdsearch.builtin.metrics  # noqa: F401 - imported once, before processes are made: it takes seconds
from kdsearch.engine import loop, phase
from kdsearch.engine.checkpoint import collect
from kdsearch.engine.conduct import Device, Report
from kdsearch.engine.ranks import ALONE, joined
from kdsearch.engine.records import kept, make_records
from kdsearch.engine.setup import Site
from tests.engine.sketches import acam, barm, collab, documents, mst

SKETCHES = {"acam": acam, "collab": collab, "barm": barm, "documents": documents, "mst": mst}


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def train(name, folder, every, kill, out, precision="fp32", accumulate=1, rank=0, world=1, meeting=None):
    """Train in `folder`; a checkpoint after every `every` steps (0 = each); SIGKILL during step `kill` = (phase, step).

    One of `world` processes that share it, where there are several; they meet at a file.

    At the end `out` gets all weights, buffers, the last phase's optimisers and the history.
    """
    torch.set_num_threads(1)
    bounds, ticks = {}, [0]
    real = loop.bind

    def bind(optim):
        bounds[optim.name] = real(optim)
        return bounds[optim.name]

    def step(at_phase, at, of, loss):
        ticks[0] += 1
        if kill is not None and kill == (at_phase, at):
            die()

    loop.bind, phase.time = bind, SimpleNamespace(monotonic=lambda: float(ticks[0]))
    given = {
        "device": Device(precision=precision, accumulate=accumulate, checkpoint_s=float(every)),
        "report": Report(step=step),
    }
    if name == "documents":
        given["records"] = records(Path(folder) / "records.jsonl", None)
    run = SKETCHES[name].make(Path(folder), **given)
    with nullcontext(ALONE) if world == 1 else joined(Path(meeting), rank, world, "cpu") as run.ranks:
        ended = run.run()
    assert ended.done
    setup = run.setup
    modules = {role: model.module for role, model in setup.models.items()}
    modules |= {f"teacher:{role}": live.model.module for role, live in setup.teachers.items()}
    modules |= {f"distiller:{key}": each for key, each in setup.distillers.items()}
    hooks = [part for module in modules.values() for part in module.modules() if part._forward_hooks]
    assert not hooks
    last = {key: bound for key, bound in bounds.items() if bound.torch.state}
    save_file(collect({**modules, "procedure": run.procedure}, last), str(out) + ".safetensors")
    Path(str(out) + ".json").write_text(json.dumps(ended.history))


def records(file, kill, writer=None):
    """The kept records of the documents; SIGKILL in the call after `kill` prompts were answered."""
    writer = writer or documents.Scripted(lambda n: die() if n == kill else None)
    site = Site(seed=0, base=Path(), writers={"llm": writer})
    recipe = documents.LabelDocuments(documents.LabelOptions())
    return kept(make_records(recipe, documents.Pages(40), site, Path(file), owner="documents"))


def result(out):
    return load_file(str(out) + ".safetensors"), json.loads(Path(str(out) + ".json").read_text())
