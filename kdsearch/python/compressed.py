"""A network of one's own pruned, quantised and verified, without a study."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdsearch.deploy.audit import is_quantised
from kdsearch.deploy.parity import module_call, numbers
from kdsearch.errors import KdsearchError, PluginError, RefusedError, StudyError, UserError, no_share, told
from kdsearch.host import Host
from kdsearch.kinds import IO, Compressor, Model, stated
from kdsearch.kinds.compressor import planned
from kdsearch.python.brought import Reader, brought_of, is_images
from kdsearch.python.fed import in_its_own
from kdsearch.python.formats import Form, Formats, Job, files_of, forms_of
from kdsearch.python.given import Given
from kdsearch.python.networks import (
    SIZE_SAID,
    OnnxNetwork,
    as_data,
    counted,
    input_shape_of,
    io_without_data,
    is_untrained,
    network,
    sized,
)
from kdsearch.python.own_data import (
    Data,
    PlanSubject,
    about_of,
    differences,
    graph_of,
    open_data,
    samples_of,
    sizes_of,
)
from kdsearch.python.pieces import as_model, check_network
from kdsearch.python.recovery import recover
from kdsearch.report.values import milliseconds
from kdsearch.stages.one_file import fixes, reasons
from kdsearch.stages.quality import measure, shown
from kdsearch.store.hashing import derive
from kdsearch.store.inputs import no_folder
from kdsearch.study.schema import Use
from kdsearch.training.materials import make
from kdsearch.training.tools import Progress


def compress(
    model: str | Path | nn.Module | Model,
    out: Path | str,
    *,
    data: str | None = None,
    data_options: Mapping[str, Any] | None = None,
    normalize: str = "auto",
    input_shape: Sequence[int] | None = None,
    weights: Path | None = None,
    teacher: str | None = None,
    teacher_weights: Path | None = None,
    prune: Mapping[str, Any] | None = None,
    pruner: str = "channels",
    recover_epochs: int = 5,
    qat_epochs: int = 0,
    inside: Mapping[str, Any] | None = None,
    formats: Formats = ("onnx-fp32", "onnx-int8"),
    calibration: Any = "data",
    max_drop: float | None = None,
    allow_code: Sequence[str] = (),
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Prune, recover, export, quantise and verify; the final JSON, whose `exports` are as a study's, each path with `out` in front.

    With data the files are calibrated on `train`, recovery stops after `recover_epochs`, and the gate reads `test` once a file.
    Without data there is no recovery and no accuracy; quantizers see then what `calibration` brings.

    Args:
        model: a module, what `load_model` gave, a file, or a name: see `networks.network`.
        out: a folder for files and cards.
        data: a data set's name, a .npz file, or a folder of images. data_options: its own. normalize: what the network
            was trained on, "imagenet" or "none"; "auto" is of an ONNX file what it says itself, else what validation shows.
        input_shape: (C, H, W) where neither data nor the network say it; of an ONNX file that leaves sizes open.
        teacher: what recovery learns from; None = the network as it was.
        prune: {"params": share that stays}, {"macs": ...} or {"latency_ms": measured in onnxruntime}, and further options of the
            pruner, {"macs": 0.7, "importance": "taylor"}. pruner: its name.
        qat_epochs: of a network that trains as it will be quantised, taught by the one before, where a file loses more than its
            bound on `val`; 0 = never.
        inside: what the files do before and after the network: exporters' options, as `input`, `layout`, `output` and those
            of boxes of onnx.
        formats: `onnx-int8`, an exporter and a quantizer of its files, or fp32, which every exporter asked for writes too; or by
            name options of the quantizer, {"onnx-int4": {"block": 64}}.
        calibration: what quantizers see: "data" (its training split), "random" (noise), or samples without labels: a folder of
            images, prepared by `normalize`, a .npz, an array or arrays by name as the network reads them. Without data, files
            are compared on some of these.
        max_drop: of quality against fp32; None = a study's own.

    Raises:
        StudyError, DataError, UnsafeCodeError: for what is asked wrongly. RefusedError: the pruning target cannot be reached.
    """
    host, out, shown = Host.load(), Path(out), Progress(progress)
    model = model.module if isinstance(model, Model) else str(model) if isinstance(model, Path) else model
    if not isinstance(model, str):
        check_network(model, "model")
    forms = forms_of(formats, inside or {}, host)
    is_file = isinstance(model, OnnxNetwork) or (isinstance(model, str) and model.lower().endswith(".onnx"))
    trains = data is not None and not is_file
    is_noise, is_brought = _calibration(calibration)
    is_folder = is_brought and is_images(calibration)
    quantizes = any(each.kind != "fp32" for each in forms)
    _check_heeded(
        {
            "--teacher": (teacher is None or (trains and prune and recover_epochs), "a network, --prune and --data"),
            "--teacher-weights": (teacher_weights is None or teacher is not None, "--teacher"),
            "--pruner": (pruner == "channels" or prune, "--prune, the target"),
            "--qat-epochs": (not qat_epochs or trains, "a torch network, and --data"),
            "data_options": (not data_options or data is not None, "data"),
            "--max-drop": (max_drop is None or data is not None, "--data, by which files are judged"),
            "--normalize": (
                normalize == "auto" or data is not None or is_folder,
                "--data or --calibration FOLDER, whose images it is of",
            ),
            "--calibration": (not is_brought or data is None or quantizes, "a format that is quantised, or no --data"),
            "--input-shape": (not input_shape or data is None, SIZE_SAID),
        }
    )
    _check_folder(out)
    file = network(model, weights_file=weights) if is_file and isinstance(model, str) else model
    given = file.given if isinstance(file, OnnxNetwork) else Given()
    opened = None
    if data is not None:
        opened = open_data(data, normalize, seed, host, given.normalization, data_options)
    if opened is not None and max_drop is not None and (fix := no_share(opened.metric.unit, max_drop)):
        raise StudyError(f"got {max_drop:g}", path="--max-drop", fix=fix)
    sizes = sizes_of(opened)
    net = file if isinstance(file, nn.Module) else network(file, allow_code, weights, seed, sizes)
    called = model if isinstance(model, str) else type(model).__name__
    fixed = net if isinstance(net, OnnxNetwork) else None
    io = _io(net, called, opened, input_shape)
    if fixed is not None:
        _check_file(forms, prune)
    if opened is None and not is_noise and not is_brought:
        _check_without_samples(forms)
    seen, most = None, max((each.samples for each in forms), default=0)
    if is_brought and opened is None:
        seen = brought_of(calibration, Reader(io, net, given, normalize, is_sized=bool(input_shape)), seed, most)
        given = seen.given
    before = Model(
        net, tuple(each.name for each in io.inputs), outputs=tuple(each.name for each in io.outputs), name=called
    )
    if fixed is None:
        before = as_model(net, io, called)
    _check_ends(forms, before, io, opened, given)
    whole, notes = counted(before, io), list[str]()
    if fixed is not None and is_quantised(fixed.model()):
        notes.append(f"{fixed.file.name} is quantised already: what is called fp32 here is that file as it is")
    is_drawn = isinstance(model, str) and is_untrained(model, weights)
    if opened is not None:
        if normalize == "auto" and given.normalization is None and not is_drawn:
            opened, said = in_its_own(opened, before, io)
            notes += [said] if said else []
        notes += differences(opened, given)
        if is_brought:
            seen = brought_of(calibration, Reader(io, net, given, own=stated(opened.arranged.facts)), seed, most)
    after, pruned = before, None
    shown.begin("compress", len(forms) + bool(prune) + 1)
    if prune:
        learned = _teacher(teacher, teacher_weights, allow_code, seed, sizes, io) if teacher else before
        after, pruned = _cut(before, learned, io, opened, prune, pruner, recover_epochs, seed, host, shown)
    job = Job(after, io, opened, fixed, out, called, seen, is_noise, max_drop, seed, qat_epochs, shown, notes, given)
    probe = list((job.probe(2) if opened is None else samples_of(opened, io, 2, seed)).tensors.values())
    if fixed is not None and fixed.rows is not None:
        fixed.check_rows(probe)
        many = "1 sample" if fixed.rows == 1 else f"{fixed.rows} samples"
        notes.append(
            f"{fixed.file.name} takes {many} at a time; its network takes any number, and so do the files made of it"
        )
    answers = _answers(after, io, probe, is_pruned=pruned is not None)
    if is_drawn:
        notes.append(f"{model} has weights drawn at random: --weights FILE.safetensors gives it those of a training")
    if all(torch.equal(each[0], each[1]) for each in answers.values()):
        notes.append("the network answers two samples alike: that its files answer as it does says little")
    if opened is None:
        notes.append("no data: no recovery, and nobody knows how good these files are")
    if seen is not None and opened is None:
        notes.append(f"files are compared on {len(seen.compared)} {seen.split}, of {seen.name}")
    with _as_typed():
        rows, refused = files_of(job, forms)
    shown.end(is_done=True)
    cost = counted(after, io)
    result = {
        "model": called,
        **{name: {"before": whole[name], "after": cost[name]} for name in ("params", "macs")},
        "pruned": pruned,
        "exports": rows,
        "refused": refused,
        "data": data,
        "notes": notes,
        "out": str(out),
    }
    result["text"] = _text(result)
    if refused:
        error = RefusedError(reasons(refused), fix=fixes(refused))
        error.result = result  # type: ignore[attr-defined]
        raise error
    return result


def _calibration(asked: Any) -> tuple[bool, bool]:
    """Whether it is noise, and whether it is samples that were brought."""
    if isinstance(asked, str) and asked in ("data", "random"):
        return asked == "random", False
    return False, True


def _check_heeded(options: Mapping[str, tuple[Any, str]]) -> None:
    """Raise StudyError for an option that would do nothing. option -> whether it does or is not asked for, and what it takes."""
    for name, (is_heeded, takes) in options.items():
        if not is_heeded:
            raise StudyError("nothing here heeds it", path=name, expected=takes)


def _check_file(forms: Sequence[Form], prune: Mapping[str, Any] | None) -> None:
    """Raise StudyError for what cannot be done with an ONNX file."""
    if others := [each for each in forms if not each.exporter.is_onnx]:
        raise StudyError(f"an ONNX file is no {others[0].name}", path="--format", expected="a torch network")
    if prune:
        raise StudyError("an ONNX file is quantised and verified only", path="--prune", expected="a torch network")


def _check_without_samples(forms: Sequence[Form]) -> None:
    """Raise StudyError for a format whose quantizer looks at samples."""
    if needing := [each for each in forms if each.calibrates]:
        raise StudyError(
            f"{needing[0].name} needs samples to calibrate with",
            path="--calibration",
            expected="--data; --calibration with a folder of images or a .npz of inputs; or --calibration random (noise, which the "
            "card then says)",
        )


def _io(net: nn.Module, called: str, opened: Data | None, shape: Sequence[int] | None) -> IO:
    """What the network reads and answers: the data's, a file's own, or what a pass shows."""
    if isinstance(net, OnnxNetwork):
        own = net.io if opened is None else as_data(net.io, opened.io, net.file)
        return sized(own, shape) if shape else own
    if opened is not None:
        return opened.io
    shape = shape or input_shape_of(net, called)
    if shape is None:
        raise StudyError("nobody knows what the network reads", path="--input-shape", expected="such as 3,224,224")
    return io_without_data(net, shape)


def _check_folder(out: Path) -> None:
    """Raise StudyError where no folder can be `out`: before any work. Nothing is made."""
    lowest = next(each for each in (out, *out.absolute().parents) if os.path.lexists(each))
    if problem := no_folder(out):
        raise StudyError(f"'{out}' {problem}", path="--out", expected="a folder, or none")
    if not os.access(lowest, os.W_OK | os.X_OK):
        raise StudyError(f"'{lowest}' is not writable", path="--out", fix="Choose another folder.")


def _check_ends(forms: Sequence[Form], model: Model, io: IO, opened: Data | None, given: Given) -> None:
    """Raise StudyError where a file cannot read or answer what is asked of it: before any work, not after it."""
    for form in forms:
        with _as_typed():
            ends = form.exporter.ends(graph_of(model, io), about_of(opened, given).get("preprocessing") or {})
            given.with_ends(ends.about if ends is not None else {})
            if ends is not None and ends.own is None and opened is not None:
                raise StudyError("no metric judges what such files answer", path="--output", expected="raw with --data")


@contextmanager
def _as_typed() -> Iterator[None]:
    """Options of exporters as the command line has them."""
    try:
        yield
    except UserError as error:
        option = error.path.removeprefix("export.exporter.options.")
        if option != error.path:
            error.path = f"--{option}" if option in ("input", "layout", "output") else f"--output boxes,{option}"
        raise


def _teacher(
    text: str, weights: Path | None, allow_code: Sequence[str], seed: int, sizes: Mapping[str, int], io: IO
) -> Model:
    try:
        return as_model(network(text, allow_code, weights, seed, sizes), io, f"teacher {text}")
    except UserError as error:
        error.path = {"MODEL": "--teacher", "--weights": "--teacher-weights"}.get(error.path, error.path)
        raise


def _cut(
    model: Model,
    teacher: Model,
    io: IO,
    opened: Data | None,
    target: Mapping[str, Any],
    pruner: str,
    epochs: int,
    seed: int,
    host: Host,
    shown: Progress,
) -> tuple[Model, dict[str, Any]]:
    """The pruned and, with data, recovered network, and what was done."""
    known = _pruner_class(pruner, host).options_class.model_fields
    options = {**({"macs": None} if "macs" in known else {}), **target}  # its default is not asked for
    made: Compressor[Any] = make(host, "pruner", Use(use=pruner, options=options), "--prune")
    made.watch = lambda share, what: shown.at(0, f"{pruner}, {share:.0%}: {what}")
    subject = PlanSubject(seed=seed, base=Path(), model=model, io=io, opened=opened, budget={})
    began = time.perf_counter()
    try:
        made.preflight(model, io)
        plan = planned(made, subject)
        cut = made.apply(model, plan)
    except KdsearchError as error:
        error.path = error.path.replace("compress.prune", "--prune", 1)
        raise
    found: dict[str, Any] = {"pruner": pruner, "target": dict(target), "log": list(plan.log)}
    if opened is not None:
        score = {"before": subject.score(model), "cut": subject.score(cut)}
        if epochs:
            recover(
                cut, teacher, opened.task, io, opened.arranged, epochs, derive(seed, "recover"),
                lambda share, what: shown.at(share, what), plan.lr_scale,
            )  # fmt: skip
        found["validation"] = {**score, "recovered": subject.score(cut)}
        found["objective"] = {"metric": opened.task.objective, **measure(opened.metric)}
    shown.at(1, "pruned")
    return cut, {**found, "seconds": time.perf_counter() - began}


def _answers(model: Model, io: IO, probe: Sequence[torch.Tensor], is_pruned: bool) -> Mapping[str, torch.Tensor]:
    """What the network answers to the probe. Raise RefusedError where only the pruned one cannot."""
    try:
        return numbers(module_call(graph_of(model, io)), probe, io.inputs, io.outputs)
    except RuntimeError as failed:
        if not is_pruned:
            raise
        problem = f"the pruned network fails at what the whole one reads: {told(failed)}"
        fix = "Write what depends on values with torch.where, or leave out the layers that it joins (exclude=PATH)."
        raise RefusedError(problem, path="--prune", fix=fix) from failed


def _pruner_class(name: str, host: Host) -> type[Compressor[Any]]:
    try:
        return host.load_class("pruner", name)
    except PluginError as error:
        raise error.at(path="--pruner") from None


def _text(result: Mapping[str, Any]) -> str:
    params, macs = result["params"], result["macs"]
    known = "" if macs["before"] is None else f", {macs['before']:,} -> {macs['after']:,} MACs"
    lines = [f"{result['model']}: {params['before']:,} -> {params['after']:,} params{known}"]
    if (pruned := result["pruned"]) and "validation" in pruned:
        about = pruned["objective"]
        sign = -1 if about["direction"] == "min" else 1
        values = {name: shown({**about, "value": sign * score}) for name, score in pruned["validation"].items()}
        said = ", ".join(f"{name} {value}" for name, value in values.items())
        lines.append(f"{about['title'] or about['metric']} on validation: {said}")
    if pruned:
        lines += [line for line in pruned["log"] if line.startswith("latency")]
    for row in result["exports"]:
        good = f"{shown(row['quality'], name=True)}, " if row.get("quality") else ""
        slower = ", slower than fp32 here" if row.get("slower_than_fp32") else ""
        took = f"{milliseconds(row['latency_ms']['median'])} ms"
        if row["latency_tuned_ms"]:
            options = ", ".join(f"{name}={value}" for name, value in row["session_options"].items())
            took += f" ({milliseconds(row['latency_tuned_ms']['median'])} ms with session option {options})"
        lines.append(f"{row['path']}: {good}{row['bytes']:,} bytes, {took}{slower}")
    lines += [f"{each['format']}: refused" for each in result["refused"]]  # the error says why
    return "\n".join([*lines, *(f"note: {each}" for each in result["notes"])])
