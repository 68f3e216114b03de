"""A package about samples that lack modalities, built as a wheel and installed beside kdsearch in an environment of its own: from
YAML to verified files, killed twice, to the end of a run that nobody disturbed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from kdsearch.host import Host
from kdsearch.store.files import read_json, read_lines
from kdsearch.study import load_study
from kdsearch.training.materials import open_materials
from tests.outside.conftest import HERE, ROOT, ended, killed_in
from tests.stages.tiny import settled

PACKAGE = HERE / "kdsearch_origins"
STUDY = PACKAGE / "origins.yaml"
BUILT = (
    "kdsearch",
    "plugins",
    "search_spaces",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "MANIFEST.in",
    "CHANGELOG.md",
)


ALONE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # without this checkout


def done(*command: object, **options: Any) -> str:
    found = subprocess.run([str(each) for each in command], capture_output=True, text=True, env=ALONE, **options)
    assert found.returncode == 0, found.stderr[-4000:]
    return found.stdout


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the environment: what `pip install` of the two wheels made, where pip finds what they need."""
    folder = tmp_path_factory.mktemp("environment")
    spared = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for name in BUILT:
        place = folder / "kdsearch" / name
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, place, ignore=spared)
        else:
            place.parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, place)
    shutil.copytree(PACKAGE, folder / "origins", ignore=spared)
    build = (sys.executable, "-m", "pip", "wheel", "--no-index", "--no-build-isolation", "--no-deps", "-w")
    done(*build, folder / "wheels", folder / "kdsearch", folder / "origins")
    done(sys.executable, "-m", "venv", folder / "venv")
    found = folder / "venv" / "bin"
    done(found / "pip", "install", "-q", *sorted((folder / "wheels").glob("*.whl")))
    return found


@pytest.fixture(scope="module")
def begin(programs: Path) -> Any:
    """`kdsearch run STUDY --dir FOLDER --json` of that environment, which knows nothing of this checkout."""

    def start(study: Path, folder: Path, **environment: str) -> subprocess.Popen[str]:
        given = {**ALONE, "KDSEARCH_CACHE": str(folder.parent / "cache"), **environment}
        command = [programs / "kdsearch", "run", study, "--dir", folder, "--json"]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=folder.parent, env=given, text=True, stdout=pipe, stderr=pipe)

    return start


@pytest.fixture(scope="module")
def origins(tmp_path_factory: pytest.TempPathFactory, begin: Any) -> tuple[Path, dict[str, Any]]:
    """The study's folder and result, after a SIGKILL in `prepare` and one in `distill`."""
    folder = tmp_path_factory.mktemp("origins") / "study"
    for stage in ("prepare", "distill"):
        killed_in(STUDY, folder, stage, begin)
    return folder, ended(STUDY, folder, begin)


@pytest.fixture(scope="module")
def data() -> Any:
    """The study's data, opened in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PACKAGE / "src"))
        host = Host.load([("origins", import_module("kdsearch_origins"))])
        return open_materials(load_study(STUDY, host), host).data


def test_it_is_installed_and_named(programs):
    where = "import kdsearch, kdsearch_origins; print(kdsearch.__file__, kdsearch_origins.__file__)"
    files = done(programs / "python", "-c", where, cwd=programs).split()
    assert all(Path(each).is_relative_to(programs.parent) for each in files)
    found = json.loads(done(programs / "kdsearch", "plugins", "--json", cwd=programs))
    assert found["broken"] == []
    own = {each["kind"]: each["name"] for each in found["capabilities"] if each["distribution"] == "kdsearch-origins"}
    assert own.keys() >= {"task", "dataset", "search_space", "metric", "teacher", "data_recipe", "distiller", "pruner"}


def test_killed_twice_it_ends_as_undisturbed(origins, begin, tmp_path):
    folder, result = origins
    assert settled(result) == settled(ended(STUDY, tmp_path / "study", begin))
    stages = [each for each in read_lines(folder / "events.jsonl") if each["event"] == "stage"]
    begun = [each["stage"] for each in stages if each["state"] == "begun"]
    assert begun.count("prepare") == begun.count("distill") == 2
    assert begun.count("search") == begun.count("refine") == begun.count("export") == 1


def test_everything_speaks_of_the_objective(origins):
    folder, result = origins
    n = sum(result["data"]["counts"]["test"].values())
    rows = {name: result[name] for name in ("teacher", "student", "baseline", "all_labels", "pruned")}
    for name, row in {**rows, **{row["format"]: row for row in result["exports"]}}.items():
        quality = row["quality"]
        assert (quality["metric"], quality["unit"], quality["n"]) == ("any_subset", "share", n), name
        assert quality["interval"][0] <= quality["value"] <= quality["interval"][1]
    assert result["refused"] == []
    assert rows["student"]["quality"]["value"] > rows["baseline"]["quality"]["value"] + 0.02
    page = re.sub(r"<script>.*?</script>", "", (folder / "report" / "index.html").read_text(), flags=re.DOTALL)
    cards = [file.read_text() for file in (folder / "export").glob("*-*.json")]
    told = [json.dumps(result), page, *cards]
    assert [text for text in told if "accuracy" in text.lower()] == []
    agreed, modules = result["data"]["recipes"]
    assert set(agreed["rejected"]) == {"views disagree"}
    assert modules["kept"] == modules["records"] > agreed["kept"]


def test_the_page_says_what_samples_lack(origins):
    folder, result = origins
    (figure,) = read_json(next(folder.glob("artifacts/report-*/evidence.json")))["figures"]
    (table,) = figure["tables"]
    counts = {row[0]: row[1] for row in table["rows"]}
    assert sum(counts.values()) == sum(result["data"]["counts"]["test"].values())
    assert {"args + shape", "shape", "doc + args + shape", "doc + shape"} <= set(counts)
    assert "What samples have" in (folder / "report" / "index.html").read_text()


def test_the_int8_file_answers_by_onnxruntime_alone(origins, data):
    """Every test sample, by every subset of what it has: the share that is right is what the study says of the file."""
    folder, result = origins
    row = next(each for each in result["exports"] if each["format"] == "onnx-int8")
    session = onnxruntime.InferenceSession(str(folder / row["path"]), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    assert set(names) == {each.name for each in data.fields if each.use == "input"}
    test, parts = data.split("test"), ("doc", "args", "shape")
    shares, junk = [], np.random.default_rng(0)
    for i in range(len(test.ids)):
        sample = test.load([i])
        fed = {name: sample[name].numpy() for name in names}
        has = [part for part in parts if fed[f"present_{part}"].item()]
        hits = []
        for keeps in product((False, True), repeat=len(has)):
            kept = {part for part, keep in zip(has, keeps, strict=True) if keep}
            if not kept:
                continue
            gone = [name for name in names if {*name.split("_")} & ({*parts} - kept)]
            less = {**fed, **{name: np.zeros_like(fed[name]) for name in gone}}
            (logits,) = session.run(None, less)
            hits.append(logits.argmax() == sample["label"].item())
            for part in {"doc", "args"} - kept:  # whatever stands where something is missing
                less[part] = junk.integers(0, 500, (1, 5))
                less[f"{part}_mask"] = np.ones((1, 5), np.int64)
            np.testing.assert_array_equal(session.run(None, less)[0], logits)
        shares.append(np.mean(hits))
    assert len(shares) == row["quality"]["n"]
    assert row["quality"]["value"] == pytest.approx(np.mean(shares), abs=5e-3)
    assert row["quality"]["value"] > 0.3


def test_a_file_is_asked_about_source_code(origins, programs, data):
    """`predict.py` beside the files, with the package's own preparation: of a function that says where it is from, and of one that
    could be from anywhere.
    """
    folder, _ = origins
    whole = 'async def f(loop, future):\n    "Wait for the future of an event loop."\n    return await loop.run(future)'
    said = done(programs / "python", folder / "export" / "predict.py", whole, "def f(self, node): pass")
    plain, little = re.findall(r": (\w+) [\d.]+%", said)
    assert plain == "asyncio"
    assert little in data.facts["classes"]
