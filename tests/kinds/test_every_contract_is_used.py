"""Every public name of `kinds` is used: by the product, or by an outside package in a study that is run.

What the host hands to plugins (a step, a setup, services, ...) counts as used where a plugin of ours asks for it, by a parameter
that is annotated so. Any other name counts where the product outside of `kinds` and `testing` reads it, sets it or overrides it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

import kdsearch.kinds
from kdsearch.kinds import Capability

ROOT = Path(__file__).parents[2]
HANDED = {  # what the host makes and plugins call -> what it is, too
    "Step": (),
    "Clock": (),
    "Services": (),
    "Setup": ("Services",),
    "Subject": ("Services",),
    "Probe": (),
    "Writer": (),
}
SEGMENTS, TEXTS = "tests/outside/kdsearch_segments.py", "tests/outside/kdsearch_texts/recipes.py"
COUNCILS, LITTLE = "tests/outside/kdsearch_councils.py", "tests/outside/kdsearch_little.py"
RUN = {SEGMENTS: "pair.yaml", TEXTS: "topics.yaml", COUNCILS: "council.yaml"}  # the study that is run with it
OUTSIDE = {  # what none of our plugins asks for, with the methods that need it; the outside package that does
    **dict.fromkeys(
        ["Clock.epoch", "Clock.epochs", "Clock.progress", "Clock.step", "Step.clock"], SEGMENTS
    ),  # schedules
    **dict.fromkeys(["Setup.score", "Setup.score(split=)"], SEGMENTS),  # results that decide on phases
    **dict.fromkeys(["Setup.fresh", "Setup.freeze"], SEGMENTS),  # growth, previous selves
    **dict.fromkeys(
        ["Setup.study", "Setup.part", "Services.predict(taps=)"], COUNCILS
    ),  # what depends on teachers alone
    **dict.fromkeys(["Setup.weights"], SEGMENTS),  # procedures with a step of their own
    **dict.fromkeys(["Step.on", "Step.batches"], SEGMENTS),  # mixed, generated and several streams of data
    **dict.fromkeys(["Step.run(batch=)", "Step.run(writes=)"], SEGMENTS),  # peers, masks
    **dict.fromkeys(
        ["Step.rng_of", "Step.log", "Step.run(frozen_stats=)", "Setup.note"], SEGMENTS
    ),  # noise, diagnostics
    **dict.fromkeys(["Step.rng", "Step.rows(field=)"], SEGMENTS),  # draws, queues, several outputs
    **dict.fromkeys(["Subject.budget"], SEGMENTS),  # pruners that weigh what they cut
    **dict.fromkeys(["Services.writer", "Services.embed", "Writer.write"], TEXTS),  # teachers of text
    **dict.fromkeys([f"Writer.write({each}=)" for each in ("n", "temperature", "stop", "seed", "max_tokens")], TEXTS),
}


def sources(*folders: str) -> list[Path]:
    return [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]


PRODUCT = [f for f in sources("kdsearch") if f.relative_to(ROOT).parts[1] not in ("kinds", "testing")]
PLUGINS = sources("kdsearch/builtin", "kdsearch/kit", "plugins", "search_spaces")


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def declared() -> Iterator[tuple[str, str]]:
    """(class or "", name) of every public class, function, member and optional argument; an argument as `method(argument=)`."""
    for file in sources("kdsearch/kinds"):
        for node in parsed(file).body:
            name = getattr(node, "name", "")
            if name not in kdsearch.kinds.__all__:
                continue
            yield "", name
            for part in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                    yield name, part.target.id
                elif isinstance(part, ast.FunctionDef) and not part.name.startswith("_") and part.name != "forward":
                    yield name, part.name
                    every = part.args.args[len(part.args.args) - len(part.args.defaults) :] + part.args.kwonlyargs
                    yield from ((name, f"{part.name}({each.arg}=)") for each in every)


@cache
def said(file: Path) -> frozenset[str]:
    """Names that a file reads (`.name`), sets (`name=`) or overrides (`def name`, `name: ... =`), imports, or spells as a text."""
    found: set[str] = set()
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Attribute):
            found.add(f".{node.attr}")
        elif isinstance(node, ast.alias):
            found.add(node.name)
        elif isinstance(node, ast.keyword) and node.arg:
            found |= {f"{node.arg}=", f".{node.arg}"}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(f".{node.value}")
        elif isinstance(node, ast.ClassDef):
            for part in node.body:
                target = part.target if isinstance(part, ast.AnnAssign) else None
                name = part.name if isinstance(part, ast.FunctionDef) else getattr(target, "id", "")
                found.add(f".{name}")
    return frozenset(found)


@cache
def asked(file: Path) -> frozenset[tuple[str, str]]:
    """(annotation, member) of what a file asks of parameters that are annotated with a class of HANDED, arguments too."""
    found: set[tuple[str, str]] = set()

    def look(node: ast.AST, known: dict[str, str]) -> None:
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            given = [*node.args.args, *node.args.kwonlyargs]
            own = {each.arg: ast.unparse(each.annotation).strip("'\"") if each.annotation else "" for each in given}
            known = {**known, **own}
        call = node.func if isinstance(node, ast.Call) else None
        for each, arguments in ((node, ()), (call, node.keywords if isinstance(node, ast.Call) else ())):
            if isinstance(each, ast.Attribute):
                owner = owner_of(each.value, known)
                found.add((owner, each.attr))
                found.update((owner, f"{each.attr}({argument.arg}=)") for argument in arguments)
        for child in ast.iter_child_nodes(node):
            look(child, known)

    look(parsed(file), {})
    return frozenset(found)


def owner_of(value: ast.expr, known: dict[str, str]) -> str:
    """Step for `step`, `step.on(...)` and `step.pair(...)`, Clock for `step.clock`, Writer for `services.writer(...)`; else ""."""
    if isinstance(value, ast.Name):
        return known.get(value.id, "")
    inner = value.func if isinstance(value, ast.Call) else value
    if isinstance(inner, ast.Attribute):
        gives = {"on": "Step", "pair": "Step", "clock": "Clock", "writer": "Writer", "study": "Services"}
        return gives.get(inner.attr, "") if owner_of(inner.value, known) else ""
    return ""


def is_asked(owner: str, name: str, files: Iterable[Path]) -> bool:
    owners = {owner, *(each for each, bases in HANDED.items() if owner in bases)}
    return any((each, name) in asked(file) for file in files for each in owners)


def is_used(owner: str, name: str, files: Iterable[Path]) -> bool:
    if owner in HANDED:
        return is_asked(owner, name, files)
    method, _, argument = name.partition("(")
    wanted = argument.rstrip(")") if argument else f".{method}" if owner else method
    return any(wanted in said(file) for file in files)


NAMES = sorted({".".join(filter(None, each)) for each in declared()})


@pytest.mark.parametrize("name", NAMES)
def test_it_is_used(name: str) -> None:
    owner, _, member = name.rpartition(".")
    ours = is_used(owner, member, PLUGINS if owner in HANDED else [*PRODUCT, *PLUGINS])
    if name not in OUTSIDE:
        assert ours, f"nothing uses {name}: use it, or take it out"
        return
    assert not ours, f"{name} is used by the product now: take it from OUTSIDE"
    assert is_used(owner, member, [ROOT / OUTSIDE[name]]), f"{OUTSIDE[name]} does not use {name}"


KEPT_AS_IT_IS = {  # members of capabilities that no plugin overrides
    "Compressor.progress",  # for a quantizer to call
    "Compressor.judge",  # for the host to set
    "Compressor.watch",  # the same
    "Distiller.named_terms",  # of what the class says
    "Exporter.is_onnx",  # of its suffix
    "SearchSpace.keeping",  # for a space's own `narrowed`
    "SearchSpace.unread",  # for a space's own `canonical`
    "SearchSpace.parse",  # of the options that a space declares
}


def test_every_hook_is_overridden_by_a_plugin() -> None:
    """By one of ours, by an outside package whose study is run, or in a test of stages, which runs studies."""
    files = [
        *PLUGINS,
        ROOT / SEGMENTS,
        ROOT / COUNCILS,
        ROOT / LITTLE,
        *sources("tests/outside/kdsearch_texts", "tests/stages"),
    ]
    own = {f".{part.attr}" for file in files for part in ast.walk(parsed(file)) if is_own(part)}
    overridden = own | {name for file in files for name in defined(file)}
    hooks = {name for name in NAMES if "(" not in name and is_kind(name.partition(".")[0]) and "." in name}
    assert {name for name in hooks if f".{name.rpartition('.')[2]}" not in overridden} == KEPT_AS_IT_IS


def is_kind(name: str) -> bool:
    """Whether a public name is that of a capability's kind."""
    found = getattr(kdsearch.kinds, name)
    return isinstance(found, type) and found is not Capability and issubclass(found, Capability)


def is_own(node: ast.AST) -> bool:
    """`self.name = ...`."""
    return isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)


def defined(file: Path) -> Iterator[str]:
    """What the classes of a file define."""
    for node in ast.walk(parsed(file)):
        for part in node.body if isinstance(node, ast.ClassDef) else ():
            targets = part.targets if isinstance(part, ast.Assign) else [getattr(part, "target", part)]
            yield from (f".{getattr(each, 'name', getattr(each, 'id', ''))}" for each in targets)


def test_what_outside_packages_use_is_there_and_run() -> None:
    assert set(OUTSIDE) <= set(NAMES)
    tests = "".join(file.read_text() for file in (ROOT / "tests/outside").glob("test_*.py"))
    for file in set(OUTSIDE.values()):
        assert RUN[file] in tests


@pytest.mark.parametrize(
    ("owner", "name", "text", "is_there"),
    [
        ("Step", "on", "def f(s: Step): s.on(1)", True),
        ("Step", "on", "def f(s: Clock): s.on(1)", False),
        ("Step", "on", "def f(s): s.on(1)", False),
        ("Step", "run(writes=)", "def f(s: Step): g = lambda: s.on(1).run('a', writes=2)", True),
        ("Step", "run(writes=)", "def f(s: Step): s.run('a', batch=2)", False),
        ("Services", "once", "def f(setup: Setup): setup.once('a', g)", True),
        ("Services", "once", "def f(probe: Probe): probe.once('a', g)", False),
        ("Clock", "step", "def f(s: Step): s.clock.step", True),
        ("Phase", "keep_eval", "Phase(keep_eval=[])", True),
        ("Phase", "keep_eval", "keep_eval = []", False),
        ("Batch", "lists", "def f(batch): return batch.lists", True),
        ("", "Ema", "from kdsearch.kinds import Ema", True),
    ],
)
def test_what_counts_as_use(owner: str, name: str, text: str, is_there: bool, tmp_path: Path) -> None:
    file = tmp_path / "it.py"
    file.write_text(text)
    assert is_used(owner, name, [file]) == is_there
