"""What a finished study's folder holds, as it was written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsearch.errors import ArtifactError, nearest
from kdsearch.store.artifacts import Artifact, Store
from kdsearch.store.files import read_json
from kdsearch.store.folder import MARK, ORIGIN, STUDY, Origin, last_run, open_folder
from kdsearch.store.inputs import lies, names

if TYPE_CHECKING:
    from kdsearch.host import Host
    from kdsearch.kinds import Samples
    from kdsearch.study.study import Study


def opened(folder: Path) -> Path:
    """Raise ArtifactError unless it is a study's folder."""
    if not lies(folder / MARK, error=ArtifactError):
        near = nearest(folder.name, [name for name in names(folder.parent) if (folder.parent / name / MARK).is_file()])
        raise ArtifactError(
            "no study's folder", file=folder, expected="a folder that `kdsearch run` made", nearest=near
        )
    open_folder(folder)
    return folder


def result_of(folder: Path) -> Mapping[str, Any]:
    """The final JSON of a finished study. Raise ArtifactError where it is not finished, or the file is not what `run` wrote."""
    file = opened(folder) / "result.json"
    if not lies(file):
        raise ArtifactError("the study is not finished", file=folder, fix="Run `kdsearch run` on its file.")
    fix = "Delete it; `kdsearch run` on the study's file writes it anew."
    found: dict[str, Any] = read_json(file, dict[str, Any], fix)
    told = _reported(folder).facts["result"]
    changed = [name for name, value in told.items() if found.get(name) != value]
    if "notes" in changed and found.get("notes", [])[: len(told["notes"])] == told["notes"]:
        changed.remove("notes")  # runs add to them: of other versions, of files that are no more, of loggers
    if changed:
        raise ArtifactError("has changed since it was written", file=file, path=changed[0], fix=fix)
    return found


def _reported(folder: Path) -> Artifact:
    """The last run's report."""
    last = last_run(folder)
    artifact = Store(folder).get("report", last["report"]["key"]) if "report" in last else None
    if artifact is None:
        raise ArtifactError("the report's artifact is gone", file=folder, fix="`kdsearch run` makes it again.")
    return artifact


def evidence_of_last(folder: Path) -> Mapping[str, Any]:
    """What the last run's figures draw. Raise ArtifactError where it is gone."""
    found: Mapping[str, Any] = read_json(_reported(opened(folder)).path / "evidence.json")
    return found


def study_of(folder: Path, host: Host, allow_code: tuple[str, ...] = (), sets: Iterable[str] = ()) -> Study:
    """The study that a folder is of, its paths starting where they did. Arguments and errors as of `load_study`."""
    from kdsearch.study.reading import load_study

    base = folder / read_json(folder / ORIGIN, Origin)["base"] if lies(folder / ORIGIN) else None
    return load_study(folder / STUDY, host, allow_code, sets, base=base)


def samples_of_last(folder: Path, host: Host, allow_code: tuple[str, ...] = ()) -> Samples:
    """What the last run's student and teachers answered to the first test samples. Raise UserError where these cannot be had."""
    from kdsearch.stages.samples import read_samples
    from kdsearch.training.materials import open_materials

    materials = open_materials(study_of(folder, host, allow_code), host)
    last = last_run(folder)
    exported = Store(folder).get("export", last["export"]["key"]) if "export" in last else None
    if exported is None:
        raise ArtifactError("the export's artifact is gone", file=folder, fix="`kdsearch run` makes it again.")
    return read_samples(materials, exported.path)
