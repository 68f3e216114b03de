"""A file and its card, judged anywhere and at any later time: does the file hold what its card says?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdsearch.deploy.files import open_session, read_onnx
from kdsearch.deploy.parity import Difference, place_of
from kdsearch.deploy.probe import alone, differences, own_at_question
from kdsearch.errors import ArtifactError, RefusedError
from kdsearch.kinds import Exporter

PARITY = 1e-4  # of an output's scale, where a card states no bound
ROUNDED = 0.05  # of an output's scale, that INT8 may differ by on another processor, whose kernels add in another order
# the same for a sample that is asked alone: dynamic INT8 takes its ranges over all samples of a call; more where the card says so
COMPANY = 0.2
Run = Callable[[Mapping[str, Any]], dict[str, Any]]
ELEMENTS = {"float16": "tensor(float16)", "float32": "tensor(float)", "float64": "tensor(double)"}


@dataclass(frozen=True)
class Check:
    """What was asked of a file, whether it holds, and what was found."""

    check: str
    ok: bool
    said: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def verified(file: Path, card: Mapping[str, Any], exporter: Exporter[Any] | None = None) -> list[Check]:
    """Every check of the file that its card allows for; a file that cannot be opened has no further ones.

    exporter: what opens a file that is no ONNX; None = onnxruntime.
    """
    checks = [*_contents(file, card)]
    if exporter is not None:
        return [*checks, *_by_exporter(file, card, exporter)]
    try:
        model = read_onnx(file)
        session = open_session(file, 1, model)
    except ArtifactError as error:
        return [*checks, Check("onnxruntime opens it", False, error.problem)]
    checks.append(Check("onnxruntime opens it", True, f"opset {_opset(model)}, IR version {model.ir_version}"))
    try:
        checks += [*_names(session, card), *_metadata(session, card)]
    except UnicodeDecodeError as error:
        return [*checks, Check("names and metadata", False, f"are no text ({error})")]
    kept = card.get("check")
    if isinstance(kept, Mapping) and all(each.ok for each in checks[-3:-1]):
        names = [each.name for each in session.get_outputs()]

        def run(feeds: Mapping[str, Any]) -> dict[str, Any]:
            return dict(zip(names, session.run(None, dict(feeds)), strict=True))

        checks += _answers(run, card, kept)
    return checks


def runner(exporter: Exporter[Any], file: Path, card: Mapping[str, Any]) -> Run:
    """The file as its exporter opens it: arrays by the names of the card's inputs -> arrays by those of its outputs.

    Raises:
        ArtifactError: it cannot be opened.
    """
    import torch

    call, use = exporter.load(file), card.get("use") or {}
    inputs, outputs = ([str(each["name"]) for each in use.get(side) or ()] for side in ("inputs", "outputs"))
    named = {name.removesuffix("_out"): name for name in outputs if name.removesuffix("_out") in inputs}

    def run(feeds: Mapping[str, Any]) -> dict[str, Any]:
        found = call(*(torch.from_numpy(np.ascontiguousarray(feeds[name])) for name in inputs))
        return {named.get(name, name): value.detach().cpu().numpy() for name, value in found.items()}

    return run


def _by_exporter(file: Path, card: Mapping[str, Any], exporter: Exporter[Any]) -> Iterator[Check]:
    opens = f"{exporter.runtime} opens it"
    try:
        run, told = runner(exporter, file, card), exporter.labels(file)
    except ArtifactError as error:
        yield Check(opens, False, error.problem)
        return
    except (AttributeError, KeyError, TypeError) as error:
        yield Check("inputs and outputs", False, f"the card cannot be read: {error!r}")
        return
    yield Check(opens, True, f"exporter {card.get('exporter')}")
    yield _reads_and_answers(run, card)
    if told is not None:
        yield _told_inside(told, card)
    kept = card.get("check")
    if isinstance(kept, Mapping):
        yield from _answers(run, card, kept)


def _reads_and_answers(run: Run, card: Mapping[str, Any]) -> Check:
    """Names, types and sizes of inputs and outputs: two samples of zeros as the card says them, and what is answered."""
    use = card.get("use") or {}

    def sizes(each: Mapping[str, Any]) -> list[int | None]:
        return [size if isinstance(size, int) else None for size in each["shape"][1:]]

    try:
        given = {
            str(each["name"]): np.zeros([2, *(2 if size is None else size for size in sizes(each))], str(each["dtype"]))
            for each in use.get("inputs") or ()
        }
        told = {str(each["name"]): (str(each["dtype"]), sizes(each)) for each in use.get("outputs") or ()}
        found = run(given)
    except Exception as error:  # whatever a runtime raises at what it does not read, or a damaged card
        return Check(
            "inputs and outputs",
            False,
            f"fails at zeros as the card says: {next(iter(str(error).splitlines()), type(error).__name__)[:200]}",
        )
    said = "; ".join(f"{name} {value.dtype} {list(value.shape)}" for name, value in found.items())
    wrong = [
        name
        for name, (dtype, shape) in told.items()
        if name not in found
        or str(found[name].dtype) != dtype
        or found[name].ndim != len(shape) + 1
        or any(want not in (None, got) for want, got in zip(shape, found[name].shape[1:], strict=True))
    ]
    if wrong or len(told) != len(found):
        told_so = "; ".join(f"{name} {dtype} {shape}" for name, (dtype, shape) in told.items())
        return Check("inputs and outputs", False, f"{said}; the card says {told_so}")
    return Check("inputs and outputs", True, said)


def _contents(file: Path, card: Mapping[str, Any]) -> Iterator[Check]:
    data, beside = file.read_bytes(), _companions(file, card)
    size = len(data) + sum(_size(place) for place, _ in beside)
    yield Check("size", size == card.get("size_bytes"), f"{size:,} bytes; the card says {_number(card, 'size_bytes')}")
    found = hashlib.sha256(data).hexdigest()
    same = found == card.get("sha256")
    yield Check(
        "sha256",
        same,
        found if same else f"{found}; the card is of {card.get('sha256')}: another file, or a changed one",
    )
    named = card.get("file")
    if not same:
        yield Check("name", named == file.name, f"{file.name}; the card is of {named}")

    for place, told in beside:
        found = hashlib.sha256(place.read_bytes()).hexdigest() if place.is_file() else "is not there"
        same = found == told
        said = found if same else f"{found}; the card is of {told}"
        yield Check(f"sha256 of {place.name}", same, said)


def _companions(file: Path, card: Mapping[str, Any]) -> list[tuple[Path, Any]]:
    """Where each lies, under the file's own stem, whatever it was called when the card was written; and its digest there."""
    told = card.get("companions")
    kept = [each for each in told if isinstance(each, Mapping)] if isinstance(told, list) else []
    return [(file.with_suffix(Path(str(each.get("file"))).suffix), each.get("sha256")) for each in kept]


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _number(card: Mapping[str, Any], key: str) -> str:
    value = card.get(key)
    return f"{value:,}" if isinstance(value, int) else str(value)


def _opset(model: Any) -> int:
    return next((int(each.version) for each in model.opset_import if each.domain in ("", "ai.onnx")), 0)


def _names(session: Any, card: Mapping[str, Any]) -> Iterator[Check]:
    """Inputs and outputs: names, types, and every size that the card states."""
    use = card.get("use") or {}
    for side, nodes in (("inputs", session.get_inputs()), ("outputs", session.get_outputs())):
        found = {each.name: _shown(each.type, each.shape) for each in nodes}
        told = {str(each["name"]): each for each in use.get(side) or ()}
        wrong = [*({*told} ^ {*found})]
        wrong += [
            each.name
            for each in nodes
            if each.name in told and not _fits(each, told[each.name], sizes=side == "inputs")
        ]
        said = "; ".join(f"{name} {shape}" for name, shape in found.items())
        if wrong:
            expected = "; ".join(f"{name} {each.get('dtype')} {each.get('shape')}" for name, each in told.items())
            said = f"{said}; the card says {expected}"
        yield Check(side, not wrong, said)


def _shown(kind: str, shape: Any) -> str:
    return f"{kind} [{', '.join(map(str, shape))}]"


def _fits(node: Any, told: Mapping[str, Any], sizes: bool) -> bool:
    kind = ELEMENTS.get(str(told.get("dtype")), f"tensor({told.get('dtype')})")
    shape = list(told.get("shape") or ())
    if node.type != kind or len(node.shape) != len(shape):
        return False
    return all(
        not isinstance(want, int) or got == want or (not sizes and isinstance(got, str))
        for got, want in zip(node.shape, shape, strict=True)
    )


def _metadata(session: Any, card: Mapping[str, Any]) -> Iterator[Check]:
    yield _told_inside(dict(session.get_modelmeta().custom_metadata_map), card)


def _told_inside(inside: Mapping[str, str], card: Mapping[str, Any]) -> Check:
    """Labels, preprocessing and origin inside the file are the card's."""
    use, provenance = card.get("use") or {}, card.get("provenance") or {}
    told = {name: use[name] for name in ("labels", "preprocessing", "inside") if use.get(name)}
    origin = ("study", "study_hash") if provenance.get("study_hash") else ("model",)
    told |= {name: provenance[name] for name in origin if provenance.get(name)}
    wrong = [name for name, value in told.items() if not _says(inside.get(name), value)]
    said = [f"{', '.join(wrong)} in the file are not the card's"] if wrong else []
    known = [f"{name} {inside[name]}" for name in ("study", "study_hash", "model") if name in inside]
    return Check("metadata", not wrong, "; ".join(said or [*known, ", ".join(sorted(inside)) or "none"]))


def _says(text: str | None, value: Any) -> bool:
    """Whether a file's text is this word, or the JSON of this value."""
    try:
        return text is not None and (text == value if isinstance(value, str) else json.loads(text) == value)
    except ValueError:
        return False


def _answers(run: Run, card: Mapping[str, Any], kept: Mapping[str, Any]) -> Iterator[Check]:
    bounds, parity = card.get("bounds") or {}, card.get("parity") or {}
    bound, elsewhere = bounds.get("parity"), bounds.get("elsewhere")
    if elsewhere is None and str(card.get("export") or "").endswith("-int8"):  # a card from before this was written
        elsewhere = ROUNDED
    try:
        own = _own_errors(parity, kept)
        if bound is not None:
            here = own_at_question(kept)
            most = {place: max(at_question, own.get(place, 0.0)) for place, at_question in here.items()}
            yield _near("answers as torch's", differences(kept, run, "torch", most), float(bound))
        allowed = float(elsewhere) if elsewhere else PARITY if bound is None else float(bound)
        yield _near("answers as when the card was written", differences(kept, run, "file", own), allowed)
        company = max(COMPANY, float(kept.get("company", 0)) + allowed)
        yield _each_alone(run, kept, company if elsewhere else allowed, own)
    except RefusedError as error:
        yield Check("answers", False, error.problem)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        yield Check("answers", False, f"the card's questions cannot be read ({type(error).__name__}: {error})")


def _own_errors(parity: Mapping[str, Any], kept: Mapping[str, Any]) -> dict[str, float]:
    """Output of the file, or column as in `value[1]` -> torch's own error where the card states it: it is of one of them, and no
    other one's excuse.
    """
    if (told := parity.get("torch_fp32_to_fp64")) is None:
        return {}
    of = parity.get("output")  # as the network calls it
    names = [str(each["name"]) for each in kept["outputs"]]
    column = parity.get("column")
    return {place_of(name, column): float(told) for name in names if of in (None, name, name.removesuffix("_out"))}


def _near(check: str, found: list[Difference], bound: float) -> Check:
    wrong = [each for each in found if each.max_abs > each.allowed(bound)]
    said = [
        f"{each.max_abs:.3g} of the answers of {each.output} differ"
        if each.is_share
        else f"{each.place} differs by {each.max_abs:.3g}, {each.relative:.2g} of its scale"
        for each in _by_output(found, wrong)
    ]
    return Check(check, not wrong, "; ".join(said) + (f"; allowed are {bound:g}" if wrong else ""))


def _by_output(found: list[Difference], wrong: list[Difference]) -> Iterator[Difference]:
    """Each; of an output whose columns are judged one by one the furthest alone, of those that are wrong where any is."""
    with_columns = {each.output for each in found if each.column is not None}
    for name in dict.fromkeys(each.output for each in found):
        of = [each for each in found if each.output == name]
        if name in with_columns:
            of = [max(of, key=lambda each: (each in wrong, each.column is not None, each.relative))]
        yield from of


def _each_alone(run: Run, kept: Mapping[str, Any], bound: float, own: Mapping[str, float]) -> Check:
    """No sample's answer depends on which others it is asked with."""
    try:
        found = alone(kept, run, own)
    except Exception as error:  # whatever the runtime raises
        why = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        return Check("one sample at a time", False, f"the file fails where a sample is asked alone: {why}")
    return _near("one sample at a time", found, bound)
