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
from kdsearch.deploy.parity import Difference
from kdsearch.deploy.probe import differences, drawn
from kdsearch.errors import ArtifactError, RefusedError

PARITY = 1e-4  # of an output's scale, where a card states no bound
ROUNDED = 0.05  # of an output's scale, that INT8 may differ by on another processor, whose kernels add in another order
COMPANY = 0.2  # the same for a sample that is asked alone: dynamic INT8 takes its ranges over all samples of a call
ELEMENTS = {"float16": "tensor(float16)", "float32": "tensor(float)", "float64": "tensor(double)"}


@dataclass(frozen=True)
class Check:
    """What was asked of a file, whether it holds, and what was found."""

    check: str
    ok: bool
    said: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def verified(file: Path, card: Mapping[str, Any]) -> list[Check]:
    """Every check of the file that its card allows for; a file that cannot be opened has no further ones."""
    checks = [*_contents(file, card)]
    try:
        model = read_onnx(file)
        session = open_session(file, 1, model)
    except ArtifactError as error:
        return [*checks, Check("onnxruntime opens it", False, error.problem)]
    checks.append(Check("onnxruntime opens it", True, f"opset {_opset(model)}, IR version {model.ir_version}"))
    checks += [*_names(session, card), *_metadata(session, card)]
    kept = card.get("check")
    if isinstance(kept, Mapping) and all(each.ok for each in checks[-3:-1]):
        checks += _answers(session, card, kept)
    return checks


def _contents(file: Path, card: Mapping[str, Any]) -> Iterator[Check]:
    data = file.read_bytes()
    yield Check(
        "size", len(data) == card.get("size_bytes"), f"{len(data):,} bytes; the card says {_number(card, 'size_bytes')}"
    )
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
        wrong = [name for name in told if name not in found]
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
    """Labels, preprocessing and origin inside the file are the card's."""
    inside = dict(session.get_modelmeta().custom_metadata_map)
    use, provenance = card.get("use") or {}, card.get("provenance") or {}
    told = {name: use[name] for name in ("labels", "preprocessing", "inside") if use.get(name)}
    origin = ("study", "study_hash") if provenance.get("study_hash") else ("model",)
    told |= {name: provenance[name] for name in origin if provenance.get(name)}
    wrong = [name for name, value in told.items() if not _says(inside.get(name), value)]
    said = [f"{', '.join(wrong)} in the file are not the card's"] if wrong else []
    known = [f"{name} {inside[name]}" for name in ("study", "study_hash", "model") if name in inside]
    yield Check("metadata", not wrong, "; ".join(said or [*known, ", ".join(sorted(inside)) or "none"]))


def _says(text: str | None, value: Any) -> bool:
    """Whether a file's text is this word, or the JSON of this value."""
    try:
        return text is not None and (text == value if isinstance(value, str) else json.loads(text) == value)
    except ValueError:
        return False


def _answers(session: Any, card: Mapping[str, Any], kept: Mapping[str, Any]) -> Iterator[Check]:
    names = [each.name for each in session.get_outputs()]

    def run(feeds: Mapping[str, Any]) -> dict[str, Any]:
        return dict(zip(names, session.run(None, dict(feeds)), strict=True))

    form = str(card.get("export") or "")
    parity = card.get("parity") or {}
    bound = (card.get("bounds") or {}).get("parity")
    own = parity.get("torch_fp32_to_fp64")
    try:
        if bound is not None:
            found = differences(kept, run, "torch")
            here = [each.get("torch_fp32_to_fp64") for each in kept["outputs"]]  # of the question itself
            most = max((float(each) for each in (own, *here) if each is not None), default=None)
            yield _near("answers as torch's", found, float(bound), most)
        allowed = ROUNDED if form.endswith("-int8") else PARITY if bound is None else float(bound)
        found = differences(kept, run, "file")
        yield _near("answers as when the card was written", found, allowed, float(own) if own is not None else None)
        yield _each_alone(run, kept, COMPANY if form.endswith("-int8") else allowed, own)
    except RefusedError as error:
        yield Check("answers", False, error.problem)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        yield Check("answers", False, f"the card's questions cannot be read ({type(error).__name__}: {error})")


def _near(check: str, found: list[tuple[str, float, float, float]], bound: float, own: float | None) -> Check:
    wrong, said = [], []
    for name, far, scale, largest in found:
        each = Difference(name, far, scale, largest, own)
        wrong += [name] if far > each.allowed(bound) else []
        said.append(f"{name} differs by {far:.3g}, {each.relative:.2g} of its scale")
    return Check(check, not wrong, "; ".join(said) + (f"; allowed are {bound:g}" if wrong else ""))


def _each_alone(
    run: Callable[[Mapping[str, Any]], dict[str, Any]], kept: Mapping[str, Any], bound: float, own: float | None
) -> Check:
    """No sample's answer depends on which others it is asked with."""
    feeds = drawn(kept["inputs"], int(kept["seed"]))
    whole = run(feeds)
    alone = [
        run({name: value[at : at + 1] for name, value in feeds.items()})
        for at in range(len(next(iter(feeds.values()))))
    ]
    found = []
    for each in kept["outputs"]:
        name = str(each["name"])
        together = whole[name].astype(np.float64)
        one = np.concatenate([row[name] for row in alone]).astype(np.float64)
        far = float(np.abs(together - one).max()) if together.shape == one.shape else float("inf")
        found.append((name, far, float(each["scale"]), float(np.abs(together).max())))
    return _near("one sample at a time", found, bound, own)
