"""The quickstart's study: the setting that people have, where the teacher knows what the user has no labels for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from kdsearch.errors import UserError, nearest, one_of
from kdsearch.host import Host
from kdsearch.store.files import write_bytes
from kdsearch.store.inputs import regular
from kdsearch.study.reading import load_study
from kdsearch.verbs.run import command, run_study
from kdsearch.verbs.summary import summary_of

TEXT = """\
# The study that `kdsearch quickstart` runs. Change it and run it again: kdsearch run FILE
format: 1
name: quickstart
seed: SEED

data: DATA

teacher: TEACHER

student: STUDENT

recipe:
  distillers:
    - {use: kd, weight: search, options: {temperature: search}}
    - {use: fitnet, weight: search, optional: true}
  train: {optimizer: adamw, lr: 0.005, batch_size: 64}

objectives: {accuracy: max}
constraints: CONSTRAINTS

search: {proxy: auto, candidates: 120, keep: 4}
refine: {trials: 6, epochs: EPOCHS_REFINE, generation: 3}
distill: {epochs: EPOCHS, controls: [baseline, all_labels]}
compress:
  prune: {use: channels, options: {macs: 0.8, round_to: 2}, recover_epochs: EPOCHS_RECOVER}
  quantize: [{use: int8}, {use: int4, options: {block: 16}}]
export:
  formats: [onnx-fp32, onnx-int8, onnx-int4]
  max_drop: {onnx-int8: 0.01, onnx-int4: 0.03}
"""

DATA = {
    "digits": "{use: digits, options: {resize: 16}, labeled: 0.1}",
    "mnist5k": "{use: mnist5k, labeled: 0.1}",
    "earth_tiles": "{use: earth_tiles, labeled: 0.1}",
}
SMALL = "{space: cifar_resnet, spec: {depths: {choices: [1, 2, 3]}, widths: {choices: [4, 8, 12, 16, 24, 32]}}}"
TEACHERS = {
    "trained": (
        "{use: trained, options: {space: cifar_resnet, spec: {depths: [1, 1, 1], widths: [16, 32, 64]}, "
        "epochs: 15, batch_size: 64, lr: 0.005}}"
    ),
    "efficientnet-lite0": "{use: efficientnet-lite0}",
}
CONSTRAINTS = {
    "digits": "{params: 20000, macs: 1500000, onnx_bytes: 120000}",
    "mnist5k": "{params: 20000, macs: 4500000, onnx_bytes: 120000}",
    "earth_tiles": "{params: 60000, macs: 12000000, onnx_bytes: 300000}",
}
EPOCHS = {"digits": (4, 30, 15), "mnist5k": (2, 10, 3), "earth_tiles": (2, 16, 3)}  # refine, distill, recovery


def study_text(data: str, teacher: str, seed: int) -> str:
    """The study file. Raise UserError for data or a teacher that the quickstart has no setting for."""
    data = "earth_tiles" if teacher == "efficientnet-lite0" and data == "digits" else data
    for what, name, known in (("data", data, DATA), ("teacher", teacher, TEACHERS)):
        if name not in known:
            problem = f"the quickstart has no {what} '{name}'"
            raise UserError(problem, path=f"--{what}", nearest=nearest(name, known), expected=one_of(known))
    refine, distill, recover = EPOCHS[data]
    values: dict[str, Any] = {
        "SEED": seed,
        "DATA": DATA[data],
        "TEACHER": TEACHERS[teacher],
        "STUDENT": SMALL,
        "CONSTRAINTS": CONSTRAINTS[data],
        "EPOCHS_REFINE": refine,
        "EPOCHS_RECOVER": recover,
        "EPOCHS": distill,
    }
    text = TEXT
    for name, value in values.items():
        text = re.sub(rf"(?<=: ){name}\b", str(value), text)
    return text


def _read(file: Path) -> str:
    return regular(file, "a study").read_bytes().decode(errors="replace")


def _is_own(text: str) -> bool:
    """Whether the quickstart writes such a file, for data, a teacher and a seed."""
    seed = re.search(r"^seed: ([0-9]+)$", text, re.MULTILINE)
    return seed is not None and any(
        study_text(data, teacher, int(seed[1])) == text for data in DATA for teacher in TEACHERS
    )


def quickstart(
    *, dir: Path, seed: int = 0, data: str = "digits", teacher: str = "trained", progress: bool = True
) -> dict[str, Any]:
    """Write the quickstart's study into `dir` and run it there."""
    from kdsearch.store.files import storing

    text = study_text(data, teacher, seed)
    file = dir / "quickstart.yaml"
    if dir.exists() and not file.exists() and any(dir.iterdir()):
        raise UserError("the folder has other files in it", file=dir, expected="a new or empty folder")
    if file.exists() and not _is_own(_read(file)):
        again = command("run", file, {"--dir": dir / "study"}, (), ())
        raise UserError("was changed since quickstart wrote it", file=file, fix=f"Run what it says now: {again}")
    host = Host.load()
    from kdsearch.study.load import parse
    from kdsearch.study.reading import make_study

    make_study(parse(text.encode()), host)  # nothing is written for what cannot run
    with storing(dir):
        dir.mkdir(parents=True, exist_ok=True)
    if not file.exists() or _read(file) != text:
        write_bytes(file, text.encode())
    study = load_study(file, host)
    given = {"--seed": (seed, 0), "--data": (data, "digits"), "--teacher": (teacher, "trained")}
    options = {name: value for name, (value, usual) in given.items() if value != usual}
    again = command("quickstart", dir, options, (), ())
    result = run_study(study, host, dir / "study", progress=progress, again=again)
    return {**result, "text": summary_of(result, dir / "study")}
