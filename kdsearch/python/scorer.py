"""Training-free scores in a program of one's own: any search space, any proxies, composites such as `auto` among them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kdsearch.errors import DataError, StudyError, one_of
from kdsearch.host import Host
from kdsearch.kinds import IO, Batch, Field, Model, Options, Proxy, SearchSpace, Task
from kdsearch.ops.copies import module_copy
from kdsearch.ops.threads import cpu_threads
from kdsearch.python.pieces import Named, as_model, capability
from kdsearch.search.candidates import reference_specs
from kdsearch.search.needs import check_needs
from kdsearch.search.ranks import Combined
from kdsearch.search.scoring import Scored, Scorer
from kdsearch.stages.probe_teacher import untrained
from kdsearch.store.hashing import derive
from kdsearch.study.names import COMPOSITES
from kdsearch.verbs.score import combiners, with_composites
from kdsearch.verbs.scorers import scorer_on

Spec = Options | Mapping[str, Any] | str


class CombinedScorer:
    """Scores architectures of one space; equal to the rows of `kdsearch score` with the same space, proxies and seed.

    As there, torch has one thread meanwhile: rounding depends on their number, and scores such as zico on rounding. A composite's
    reference sample, 128 architectures, is scored when the first score is asked for.

    Args:
        scorer: of all proxies. reference: of the composites' terms; not read where there is none.
        names: of what is asked for, in that order: proxies and composites.
        seed: that the reference sample is drawn with.
    """

    def __init__(self, scorer: Scorer, reference: Scorer, names: Sequence[str], seed: int) -> None:
        self.space, self.io, self.names = scorer.space, scorer.io, tuple(names)
        self._scorer, self._reference, self._seed = scorer, reference, seed
        self._combined: dict[str, Combined] | None = None

    def __repr__(self) -> str:
        shapes = ", ".join(f"{each.name} {each.shape}" for each in self.io.inputs)
        return f"<CombinedScorer of {type(self.space).__name__} by {', '.join(self.names)}; reads {shapes}>"

    @property
    def notes(self) -> dict[str, str]:
        """Proxy -> what it says about its meaning on these architectures."""
        with cpu_threads(1):
            return self._scorer.notes

    def score(self, spec: Spec) -> Scored:
        """One architecture's row; `spec` may be the space's text. Raise StudyError for one that the space does not have."""
        parsed = _parsed(self.space, spec)
        with cpu_threads(1):
            return with_composites(self._scorer.score(parsed), self.names, self._combiners())

    def score_all(self, specs: Sequence[Spec]) -> list[Scored]:
        """Rows in the order of the specs."""
        return [self.score(spec) for spec in specs]

    def _combiners(self) -> dict[str, Combined]:
        if self._combined is None:
            is_needed = any(name in COMPOSITES for name in self.names)
            drawn = reference_specs(self.space, self._seed) if is_needed else []
            self._combined = combiners(self.names, self._reference.score_all(drawn))
        return self._combined


def scorer(
    space: str | type[SearchSpace[Any]] | SearchSpace[Any],
    proxies: Sequence[Named],
    *,
    task: Named | None = None,
    io: IO | None = None,
    shape: Sequence[int] | None = None,
    classes: int | None = None,
    samples: tuple[Tensor | Mapping[str, Tensor], Tensor | Mapping[str, Tensor]] | None = None,
    teacher: Spec | nn.Module | Model | None = None,
    seed: int = 0,
    init_seeds: int = 1,
) -> CombinedScorer:
    """Scores of a space's architectures: `scorer.score(spec)`, `scorer.score_all(specs)`, `scorer.space.sample(rng)`.

        scorer = kdsearch.scorer("cifar_resnet", ["auto", "nwot"], shape=(1, 28, 28), teacher=my_network)
        best = max(scorer.score_all(specs), key=lambda row: row.scores["auto"])

    Args:
        space: a name, class or object.
        proxies: names, sections or classes; `auto`.
        task: a name, section, class or object: its loss, its fields; default: what the space is for.
        io: what the networks read and answer; default: the space's example, an image of 3x32x32 and 10 classes for most, with
            the inputs' `shape`, such as (C, H, W), and the number of `classes` where given.
        samples: (inputs, targets, such as labels (B,)) that the proxies see, each by name where there are several; inputs then
            say `shape`; default: 32 of noise.
        teacher: that proxies look at which need one: a network (a copy, its weights drawn anew) or a spec of the space;
            default: the space's own.
        init_seeds: initialisations that a score is the mean of.

    Raises:
        PluginError, StudyError: an unknown name, wrong options, a teacher whose weights cannot be drawn anew or that lacks a tap.
        DataError: samples that do not fit the networks.
    """
    if init_seeds < 1:
        raise StudyError(f"got {init_seeds}", path="init_seeds", expected="1 or more")
    if io is not None and not (shape is None and classes is None):
        raise StudyError("io says shape and classes too", path="io", expected="io alone, or shape and classes")
    if samples is not None and not (isinstance(samples, tuple | list) and len(samples) == 2):
        raise DataError(f"samples: got {type(samples).__name__}", expected="(inputs, targets)")
    if samples is not None and not isinstance(samples[0], Tensor | Mapping):
        raise DataError(
            f"samples: the inputs are {type(samples[0]).__name__}", expected="a torch tensor, or tensors by name"
        )
    host = Host.load()
    made = space if isinstance(space, SearchSpace) else _space(host, space)
    named, names = _proxies(proxies, host)
    asked = io if io is not None else _io(made, shape, samples and samples[0], classes)
    own = capability("task", made.task if task is None else task, host)[1]
    batch = None if samples is None else _batch(own, asked, *samples)
    narrowed = made.narrowed(asked)
    given: Any = None
    if isinstance(teacher, nn.Module | Model):
        given = _redrawn(teacher, asked, seed, named.values())
    elif teacher is not None:
        given = _parsed(narrowed, teacher, "teacher")
    check_needs(named, asked, host)
    terms = {term: named[term] for name in names for term in COMPOSITES.get(name, ())}
    both = [scorer_on(narrowed, asked, own, each, batch, given, seed, init_seeds) for each in (named, terms)]
    return CombinedScorer(both[0], both[1], names, seed)


def _parsed(space: SearchSpace[Any], spec: Spec, path: str = "spec") -> Any:
    if isinstance(spec, Options):
        return spec
    if not isinstance(spec, str | Mapping):
        got = f"the class {spec.__name__}" if isinstance(spec, type) else type(spec).__name__
        raise StudyError(f"got {got}", path=path, expected="a spec of the space, as a mapping or its text")
    return space.decode(spec) if isinstance(spec, str) else space.parse(dict(spec))


def _space(host: Host, space: str | type[SearchSpace[Any]]) -> SearchSpace[Any]:
    if not isinstance(space, str) and not (isinstance(space, type) and issubclass(space, SearchSpace)):
        raise StudyError(f"got {space!r}"[:200], path="space", expected="a search space's name, class or object")
    cls = host.load_class("search_space", space) if isinstance(space, str) else space
    made: SearchSpace[Any] = cls()
    return made


def _proxies(asked: Sequence[Named], host: Host) -> tuple[dict[str, Proxy[Any]], list[str]]:
    """Proxies by name, composites' terms included, and the names asked for. A term given by itself keeps its options."""
    named: dict[str, Proxy[Any]] = {}
    names: list[str] = []
    if isinstance(asked, str) or not asked:
        raise StudyError(f"got {asked!r}", path="proxies", expected="a list with one or more")
    for each in asked:
        use = each.get("use") if isinstance(each, Mapping) else each
        if isinstance(use, str) and use in COMPOSITES:
            if isinstance(each, Mapping) and each.get("options"):
                expected = f"options of its terms: {one_of(COMPOSITES[use])}"
                raise StudyError(f"'{use}' has no options", path="proxies", expected=expected)
            names.append(use)
            continue
        if isinstance(use, str):
            host.find("proxy", use, tuple(COMPOSITES))
        name, proxy = capability("proxy", each, host)
        if name in named:
            raise StudyError("two proxies have one name", path=f"proxies, {name}", fix="Give one of them a 'name'.")
        named[name] = proxy
        names.append(name)
    for term in (term for name in names for term in COMPOSITES.get(name, ())):
        if term not in named:
            named[term] = capability("proxy", term, host)[1]
    return named, list(dict.fromkeys(names))


def _io(
    space: SearchSpace[Any],
    shape: Sequence[int] | None,
    inputs: Tensor | Mapping[str, Tensor] | None,
    classes: int | None,
) -> IO:
    """The space's example with the sizes of `shape`, or of the samples' inputs. Three are an image, whatever the example reads."""
    example = space.example_io()
    fields, outputs = example.inputs, example.outputs
    if isinstance(inputs, Mapping):
        sizes = {name: tuple(each.shape[1:]) for name, each in inputs.items() if isinstance(each, Tensor)}
        tokens = next((sizes[each.name] for each in fields if each.kind == "tokens" and each.name in sizes), None)
        if tokens is not None:  # a mask is as long as the tokens
            sizes |= {each.name: tokens for each in fields if each.kind == "mask"}
        fields = tuple(replace(each, shape=sizes.get(each.name, each.shape)) for each in fields)
    elif inputs is not None or shape is not None:
        if shape is not None and not (isinstance(shape, Sequence) and all(isinstance(size, int) for size in shape)):
            raise StudyError(f"got {shape!r}", path="shape", expected="sizes, such as (3, 32, 32)")
        own = tuple(shape or ()) if inputs is None else tuple(inputs.shape[1:])
        if len(own) == 3:
            fields = (Field("image", "image", own),)
        elif any(len(each.shape) != len(own) for each in fields):
            reads = ", ".join(f"{each.name} {each.shape}" for each in fields)
            raise StudyError(f"got {own}", path="shape", expected=f"sizes of the space's inputs: {reads}")
        else:
            fields = tuple(replace(each, shape=own) for each in fields)
    if classes is not None:
        if classes < 2:
            raise StudyError(f"got {classes}", path="classes", expected="2 or more")
        outputs = tuple(replace(each, shape=(classes,)) for each in outputs)
    return IO(fields, outputs)


def _batch(
    task: Task[Any], io: IO, inputs: Tensor | Mapping[str, Tensor], targets: Tensor | Mapping[str, Tensor]
) -> Batch:
    """Raise DataError for samples that are not what the networks read, or targets that are not what the task judges by."""
    like = task.dummy(io, 2, torch.Generator().manual_seed(0))
    reads = [each.name for each in io.inputs]
    judges = [name for name in like.tensors if name not in reads]
    given = _named(inputs, reads, "inputs") | _named(targets, judges, "targets")
    n = len(given[(judges or reads)[0]])
    for field in io.inputs:
        _check_field(field, given[field.name], n)
    for name in judges:
        _check_target(name, given[name], like[name], io, n)
    return Batch(tuple(str(i) for i in range(n)), given)


def _named(given: Tensor | Mapping[str, Tensor], names: Sequence[str], what: str) -> dict[str, Tensor]:
    made = dict(given) if isinstance(given, Mapping) else {names[0] if names else what: given}
    if sorted(made) != sorted(names):
        raise DataError(f"samples: the {what} are {', '.join(made)}", expected=", ".join(names) or "none")
    for name, each in made.items():
        if not isinstance(each, Tensor):
            raise DataError(f"samples: '{name}' is {type(each).__name__}", expected="a torch tensor")
    return made


def _check_target(name: str, given: Tensor, like: Tensor, io: IO, n: int) -> None:
    """Of the shape and type that the task's own noise has; class indices are of the outputs' classes."""
    said = f"{given.dtype} {tuple(given.shape)}"
    k = io.outputs[0].shape[0] if len(io.outputs[0].shape) == 1 and like.shape == (2,) and _whole(like) else None
    wrong = given.shape[1:] != like.shape[1:] or given.dtype != like.dtype or len(given) != n or n < 2
    if k is None and wrong:
        shape = ", ".join(str(size) for size in ("B", *like.shape[1:]))
        raise DataError(f"samples: '{name}' is {said}", expected=f"{like.dtype} ({shape}), B of 2 or more")
    if k is not None and (wrong or int(given.min()) < 0 or int(given.max()) >= k):
        said += f" up to {int(given.max())}" if given.numel() else ""
        expected = f"{str(like.dtype).removeprefix('torch.')} (B,) of 0 to {k - 1}, B of 2 or more"
        raise DataError(f"samples: the labels are {said}", expected=expected)


def _whole(values: Tensor) -> bool:
    return not values.is_floating_point() and values.dtype != torch.bool


def _check_field(field: Field, given: Tensor, n: int) -> None:
    found = tuple(given.shape)
    fits = len(found) == len(field.shape) + 1 and all(
        size in (None, got) for size, got in zip(field.shape, found[1:], strict=True)
    )
    if not fits or found[0] != n:
        expected = f"({', '.join(str(size) for size in (n, *field.shape))}), one a label"
        raise DataError(f"samples: '{field.name}' is {found}", expected=expected)
    if field.kind != "mask" and given.dtype != field.torch_dtype:  # a mask may be of any type
        raise DataError(f"samples: '{field.name}' is {given.dtype}", expected=str(field.torch_dtype))
    if field.n_values is not None and given.numel() and not 0 <= int(given.min()) <= int(given.max()) < field.n_values:
        said = f"from {int(given.min())} to {int(given.max())}"
        raise DataError(f"samples: '{field.name}' is {said}", expected=f"0 to {field.n_values - 1}")


def _redrawn(teacher: nn.Module | Model, io: IO, seed: int, proxies: Iterable[Proxy[Any]]) -> Model:
    """A copy with fresh weights, on the CPU as the students are; the network itself is left as it is."""
    if isinstance(teacher, Model):
        model = teacher.copy()
        model.module.cpu()
    else:
        model = as_model(module_copy(teacher).cpu(), io, "teacher")
    reason = untrained(model, derive(seed, "teacher"), proxies)
    if reason:
        raise StudyError(reason, path="teacher", expected="a network whose weights can be drawn anew, or a spec")
    return model
