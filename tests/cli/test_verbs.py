"""Verbs: what they print, their exit codes, and what they leave unimported."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import jsonschema
import pytest

import kdsearch.verbs
from kdsearch import __version__
from kdsearch.cli import data, main
from kdsearch.errors import BusyError, InterruptedRun, RefusedError, StorageError, StudyError
from kdsearch.hooks import hookimpl
from kdsearch.host import Broken, Host
from kdsearch.study import load_study
from kdsearch.study.load import read
from kdsearch.study.summary import summary
from kdsearch.verbs import quickstart
from tests import small_plugin
from tests.stages.tiny import write_study

GOOD = Path(__file__).parents[1] / "study" / "good.yaml"
REAL_LOAD = Host.load  # `host` replaces it
HEAVY = ("torch", "numpy", "onnx", "onnxruntime", "optuna", "sklearn", "torchvision", "timm", "PIL", "ruamel")


@pytest.fixture
def host(monkeypatch, tmp_path):
    found = Host.load(extra=[("small", small_plugin)], entry_points=False)
    monkeypatch.setattr(Host, "load", classmethod(lambda cls: found))
    monkeypatch.chdir(tmp_path)
    return found


@pytest.fixture
def commands(monkeypatch):
    """A stand-in for the stages: what a verb hands over is seen, and its answer is chosen."""
    module = ModuleType("kdsearch.verbs.commands")
    monkeypatch.setitem(sys.modules, "kdsearch.verbs.commands", module)
    monkeypatch.setattr(kdsearch.verbs, "commands", module, raising=False)
    return module


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    code = main([str(each) for each in arguments])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize(
    "arguments", [["--help"], ["plugins"], ["plugins", "--json"], ["run", "--help"], ["--version"]]
)
def test_listing_imports_nothing_heavy(arguments):
    code = (
        f"import sys\nfrom kdsearch.cli import main\ncode = main({arguments!r})\n"
        f"found = sorted(set({HEAVY!r}) & set(sys.modules))\n"
        "papers = [n for n in sys.modules if n.startswith('kdsearch_plugins.') and n.count('.') > 1]\n"
        "assert not papers, papers\nprint('HEAVY', found)\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "HEAVY []"
    assert done.stderr == ""


@pytest.mark.parametrize("verb", ["status", "clean"])
def test_what_a_folder_says_is_read_without_torch(verb, tmp_path):
    (tmp_path / "kdsearch.json").write_text('{"format": 1}')
    code = (
        f"import sys\nfrom kdsearch.cli import main\ncode = main([{verb!r}, {str(tmp_path)!r}])\n"
        "assert not {'torch', 'onnx', 'onnxruntime', 'optuna'} & set(sys.modules), sorted(sys.modules)\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_schema_errors_are_said_before_torch_is_imported():
    bad = Path(__file__).parents[1] / "bad_studies" / "unknown_key.yaml"
    code = (
        f"import sys\nfrom kdsearch.cli import main\ncode = main(['validate', {str(bad)!r}])\n"
        "assert 'torch' not in sys.modules\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "serach" in done.stderr


def test_help_names_every_verb(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    commands = out.partition("Commands:\n")[2]
    sentences = re.findall(r"^  ([a-z]+) .*[^.]\.$", commands, re.MULTILINE)  # each a whole one at 80 columns
    assert len(sentences) == len(commands.splitlines())
    assert {"quickstart", "init", "validate", "run", "status", "worker", "export", "compress", "verify"} <= {*sentences}
    assert run(capsys, "--version") == (0, f"{__version__}\n", "")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("nonsense", "kdsearch: no such command 'nonsense'. See `kdsearch --help`."),
        ("run", "kdsearch run: missing argument 'FILE'. See `kdsearch run --help`."),
        ("validate x --pln", "kdsearch validate: no such option: --pln"),
        ("score --proxies x", "--space: neither a space nor a study is named. Expected one of --space and --study."),
        (
            "plugins shwo",
            "kdsearch plugins: no such command 'shwo'. Did you mean 'show'? See `kdsearch plugins --help`.",
        ),
        (
            "run x.yaml --workers 0",
            "kdsearch run: invalid value for '--workers': got '0'. Expected greater than or equal to 1.",
        ),
        (
            "run x.yaml --workers two",
            "kdsearch run: invalid value for '--workers': got 'two'. Expected a whole number. See",
        ),
        (
            "run x.yaml --seed -1",
            "kdsearch run: invalid value for '--seed': got '-1'. Expected greater than or equal to 0.",
        ),
        ("quickstart --seed -1", "kdsearch quickstart: invalid value for '--seed'"),
        ("status file.yaml", "kdsearch status: invalid value for 'DIR'"),
        ("quickstart file.yaml", "kdsearch quickstart: invalid value for 'DIR'"),
        ("init study", "'study' names no study; did you mean 'study.yaml'? Expected a name that ends in .yaml"),
        ("init study.txt", "'study.txt' names no study; did you mean 'study.yaml'?"),
        ("init .", "'.' names no study. Expected a name"),
        (f"init {'x' * 300}.yaml", f"{'x' * 300}.yaml: no file can have this name"),
    ],
    ids=lambda text: text[:30],
)
def test_a_wrong_command_line_is_one_message(line, expected, host, capsys):
    Path("file.yaml").write_text("")
    code, out, err = run(capsys, *line.split())
    assert (code, json.loads(out)["exit_code"] if out else 2) == (2, 2)
    assert bool(out) == ("--json" in line)
    assert err.startswith(expected)
    assert err.count("\n") == 1
    assert [each.name for each in Path().iterdir()] == ["file.yaml"]


@pytest.mark.parametrize("verb", ["run", "validate", "quickstart", "compress", "score", "bench table"])
def test_a_seed_of_more_than_63_bits_is_refused(verb, capsys):
    given = {"bench table": ["x", "--n", "2"], "compress": ["x", "--out", "y"], "quickstart": [], "score": []}
    line = [*verb.split(), *given.get(verb, ["x"]), "--seed"]
    code, _, err = run(capsys, *line, str(2**63))
    assert (code, err) == (
        2,
        f"kdsearch {verb}: invalid value for '--seed': got '{2**63}'. Expected less than or equal to {2**63 - 1}. "
        f"See `kdsearch {verb} --help`.\n",
    )


def test_help_says_what_an_option_takes(capsys):
    """No type of Python's, as `<int range>` and `<str>`, stands for a value."""
    for line in (
        "run",
        "compress",
        "score",
        "export",
        "worker",
        "bench table",
        "bench search",
        "bench proxies",
        "bench onnx",
    ):
        _, out, _ = run(capsys, *line.split(), "--help")
        options = out.partition("Options:")[2]
        assert re.search(r"^  --[a-z-]+ [A-Z=]+ ", options, re.MULTILINE)
        assert not re.search(r"^  --[a-z-]+ [<\[]", options, re.MULTILINE), line


def test_every_capability_of_kdsearch_says_what_it_is():
    assert [
        each.name for each in Host.load().entries() if each.plugin.distribution == "kdsearch" and not each.entry.about
    ] == []


def test_plugins_lists_all_with_their_state(host, capsys, monkeypatch):
    def same(register):
        register.proxy("nwot", "m:C")

    other = ModuleType("other")
    other.kdsearch_register = hookimpl(same)
    both = Host.load()
    both = Host(
        (*both.plugins, *REAL_LOAD(extra=[("other", other)], entry_points=False).plugins),
        (Broken("b", "d", "1", "E: x"),),
    )
    monkeypatch.setattr(Host, "load", classmethod(lambda cls: both))
    code, out, _ = run(capsys, "plugins", "--json")
    found = json.loads(out)
    assert code == 0
    states = {
        (each["plugin"], each["name"]): each["state"] for each in found["capabilities"] if each["kind"] == "proxy"
    }
    assert states["small", "nwot"] == states["other", "nwot"] == "conflicting"
    assert states["small", "params"] == "ok"
    assert found["broken"] == [{"plugin": "b", "distribution": "d", "version": "1", "error": "E: x"}]
    code, out, _ = run(capsys, "plugins")
    assert code == 0
    assert out.count("conflicting") == 2
    assert re.search(r"b +d 1 +broken +E: x", out)


def test_show_is_a_plugin_first_and_then_every_capability_of_that_name(host, capsys):
    code, out, _ = run(capsys, "plugins", "show", "small", "--json")
    (plugin,) = json.loads(out)["plugins"]
    assert code == 0
    assert {"kind": "distiller", "name": "kd", "about": ""} in plugin["capabilities"]
    code, out, _ = run(capsys, "plugins", "show", "kd", "--json")
    (found,) = json.loads(out)["capabilities"]
    assert found["about"] == "Soft targets."
    assert found["needs"]["access"] == "LOGITS"
    code, out, _ = run(capsys, "plugins", "show", "fitnet", "--json")
    assert json.loads(out)["capabilities"][0]["needs"]["access"] == "TAPS", (
        "what a study with its defaults is refused without"
    )
    assert found["options"] == [
        {
            "name": "temperature",
            "type": "float",
            "required": False,
            "default": 4.0,
            "range": "> 0",
            "search": "1..8 (log)",
            "description": "softens both distributions",
        }
    ]
    assert found["source"] == small_plugin.__doc__.strip()
    code, out, _ = run(capsys, "plugins", "show", "kd")
    assert small_plugin.__doc__.splitlines()[0] in out
    assert "1..8 (log)" in out
    assert "softens both distributions" in out
    code, _, err = run(capsys, "plugins", "show", "kdd")
    assert (code, err.count("\n")) == (2, 1)
    assert "did you mean 'kd'?" in err


TERMS = {
    "relation": {"base": 1.0, "own": 0.0},
    "params": {"base": 1.0, "own": 1.0},
    "synflow": {"base": 0.125, "own": 0.0},
}


def test_the_list_has_the_composites_too(capsys):
    _, out, _ = run(capsys, "plugins")
    assert "a mean of the ranks of relation, params, synflow" in out
    found = json.loads(run(capsys, "plugins", "--json")[1])
    assert found["composites"] == [{"kind": "proxy", "name": "auto", "terms": TERMS}]


def test_show_says_what_a_composite_is_the_mean_of(capsys):
    code, out, _ = run(capsys, "plugins", "show", "auto")
    assert code == 0
    assert out.splitlines()[0] == (
        "proxy auto: power mean, exponent 1/3, of the ranks of relation (weight 1), "
        "params (weight 1 to 2, the fewer have equal ones the more), synflow (weight 0.125)"
    )
    (shown,) = json.loads(run(capsys, "plugins", "show", "auto", "--json")[1])["composites"]
    assert shown == {"kind": "proxy", "name": "auto", "exponent": "1/3", "terms": TERMS}
    assert "did you mean 'auto'" in run(capsys, "plugins", "show", "auot")[2]


def test_show_tells_of_a_plugin_and_of_what_has_its_name(capsys):
    code, out, _ = run(capsys, "plugins", "show", "mlp")
    assert code == 0
    assert "mlp: plugin of kdsearch" in out
    assert "search_space mlp: mlp of kdsearch" in out
    found = json.loads(run(capsys, "plugins", "show", "diswot", "--json")[1])
    assert [each["kind"] for each in found["capabilities"]] == ["proxy", "distiller"]
    (proxy,) = json.loads(run(capsys, "plugins", "show", "proxy:diswot", "--json")[1])["capabilities"]
    assert (proxy["kind"], [each["name"] for each in proxy["options"]][:1]) == ("proxy", ["init"])
    code, _, err = run(capsys, "plugins", "show", "nonsense:kd")
    assert code == 2
    assert "no plugin and no capability is called 'nonsense:kd'; did you mean 'kd'?" in err


def test_show_names_what_every_option_may_be(host, capsys):
    code, out, _ = run(capsys, "plugins", "show", "cifar_resnet", "--json")
    options = {each["name"]: each for each in json.loads(out)["capabilities"][0]["options"]}
    assert code == 0
    assert (options["depths"]["type"], options["depths"]["search"]) == ("list of int", "1, 2, 3 for each of 3")
    assert options["width"]["type"] == "8 | 16 | 32"


def test_every_installed_capability_can_be_shown(capsys):
    for each in Host.load().entries():
        code, out, _ = run(capsys, "plugins", "show", f"{each.plugin.distribution}:{each.kind}:{each.name}", "--json")
        (found,) = json.loads(out)["capabilities"]
        assert code == 0
        if "pip install" in found.get("error", ""):  # of an extra that is not here
            continue
        assert found["state"] == "ok", found
        assert found["about"]
        assert all(option["description"] for option in found["options"]), found


def test_data_says_what_is_there_and_how_to_get_the_rest(capsys):
    code, out, err = run(capsys, "data", "--json")
    assert (code, err) == (0, "")
    found = {each["name"]: each for each in json.loads(out)["data"]}
    assert found["digits"]["present"] is True
    assert found["fashion_mnist"]["install"] == "apt-get install dataset-fashion-mnist"
    assert found["image_folder"]["present"] is None
    code, out, _ = run(capsys, "data")
    assert re.search(r"^digits +present ", out, re.MULTILINE)
    for each in found.values():
        assert (each["install"] in out) or each["present"]


@pytest.mark.parametrize(
    ("present", "complete", "state"),
    [(None, None, "your files"), (True, True, "present"), (True, False, "in part"), (False, False, "missing")],
)
def test_data_that_are_there_in_part_are_to_be_installed(present, complete, state, monkeypatch, capsys):
    row = {"name": "earth", "about": "tiles", "size": "1 MB", "licence": "", "install": "apt-get install earth"}
    monkeypatch.setattr(data, "listing", lambda _: [{**row, "present": present, "complete": complete}])
    code, out, _ = run(capsys, "data")
    assert code == 0
    assert re.search(rf"^earth +{state} +tiles", out, re.MULTILINE)
    assert ("apt-get install earth" in out) == (state != "present")


def test_init_writes_a_study_that_is_valid_here_and_for_editors(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "init")
    assert (code, err) == (0, "")
    assert out == "Wrote study.yaml and study.schema.json. Next: kdsearch run study.yaml\n"
    study = load_study("study.yaml", Host.load())
    assert study.config.data.labeled == 0.1
    schema = json.loads(Path("study.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(read(Path("study.yaml")).raw, schema, jsonschema.Draft202012Validator)
    assert Path("study.yaml").read_text().startswith("# yaml-language-server: $schema=./study.schema.json\n")
    code, printed, _ = run(capsys, "schema")
    assert json.loads(printed) == schema


@pytest.mark.slow
def test_a_command_to_copy_is_never_cut(monkeypatch, capsys):
    from kdsearch.cli import data

    command = "pip install " + " ".join(f"a-package-with-a-long-name-{i}" for i in range(20))
    row = {"name": "far", "kind": "data", "present": False, "complete": False, "install": command}
    row |= {"about": "x", "size": "", "licence": ""}
    monkeypatch.setattr(data, "listing", lambda host: [row])
    monkeypatch.setenv("COLUMNS", "40")
    _, out, _ = run(capsys, "data")
    assert f"  far: {command}" in out.splitlines()


def test_the_api_is_seen_by_completion():
    import kdsearch

    assert set(kdsearch.__all__) <= set(dir(kdsearch))
    assert "Study" in dir(kdsearch)


def test_a_bare_command_is_help(capsys):
    code, out, err = run(capsys)
    assert (code, err) == (0, "")
    assert out.startswith("Usage: kdsearch")
    assert "\n  quickstart " in out


def test_completion_is_offered():
    # below a bash of its own: the nearest shell above is asked which it is, and below make that is sh
    asked = 'set -e; "$0" -m kdsearch --show-completion; exit 0'
    done = subprocess.run(["bash", "-c", asked, sys.executable], capture_output=True, text=True, check=True)
    assert "_kdsearch_completion" in done.stdout
    assert done.stderr == ""


def test_an_error_is_an_object_for_programs(host, capsys, monkeypatch, commands):
    code, out, err = run(capsys, "validate", "nowhere.yaml", "--json")
    told = json.loads(out)
    assert (code, told["exit_code"], told["error"]["type"]) == (2, 2, "StudyError")
    assert (told["error"]["file"], told["error"]["problem"]) == ("nowhere.yaml", "there is no such file")
    assert err.count("\n") == 1

    def refuse(**_):
        raise RefusedError("none keeps the constraints", path="constraints")

    commands.run = refuse
    code, out, _ = run(capsys, "run", GOOD, "--json")
    assert (code, json.loads(out)["error"]["path"]) == (3, "constraints")


def test_init_that_ran_out_of_room_can_be_repeated(tmp_path, monkeypatch, capsys):
    from kdsearch.study import template

    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as full:
        full.setattr(template, "study_text", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        code, _, err = run(capsys, "init")
        assert (code, list(tmp_path.iterdir())) == (1, [])
        assert "study.yaml: cannot be written: No space left on device" in err
    assert run(capsys, "init")[0] == 0


def test_quickstart_leaves_a_study_that_was_changed(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(quickstart, "run_study", lambda *args, **given: asked.append(given["again"]) or {})
    monkeypatch.setattr(quickstart, "summary_of", lambda *args: "")
    folder = tmp_path / "my dir; x"
    for more in ((), ("--data", "mnist5k"), ("--seed", 3)):  # what it wrote itself it may write anew
        assert run(capsys, "quickstart", folder, *more)[0] == 0
    words = ["kdsearch", "quickstart", str(folder)]
    assert [shlex.split(each) for each in asked] == [words, [*words, "--data", "mnist5k"], [*words, "--seed", "3"]]
    file = folder / "quickstart.yaml"
    file.write_text(changed := file.read_text().replace("trials: 6", "trials: 7"))
    code, _, err = run(capsys, "quickstart", folder)
    assert (code, file.read_text()) == (2, changed)
    assert f"kdsearch run '{file}' --dir '{folder / 'study'}'" in err


def test_json_before_a_subcommand_is_its_own(capsys):
    assert json.loads(run(capsys, "plugins", "--json", "show", "kd")[1])


def test_every_error_has_every_field(capsys):
    code, out, _ = run(capsys, "status", "--jsno", "--json")
    error = json.loads(out)["error"]
    assert (code, error["type"]) == (2, "UsageError")
    assert set(error) == {"type", "problem", "file", "line", "path", "expected", "nearest", "fix"}


@pytest.mark.parametrize("verb", ["run", "quickstart"])
def test_a_cache_that_cannot_be_written_is_known_before_any_work(verb, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KDSEARCH_CACHE", str(tmp_path / "file" / "cache"))
    what = write_study(tmp_path / "place") if verb == "run" else tmp_path / "q"
    code, out, err = run(capsys, verb, what, *(["--dir", tmp_path / "d"] * (verb == "run")))
    assert (code, out) == (1, "")
    assert "measured latencies cannot be kept here" in err
    assert "Set KDSEARCH_CACHE to a folder that can be written." in err
    assert not (tmp_path / "d").exists()
    assert not (tmp_path / "q" / "study").exists()


def test_the_study_that_init_writes_compares_architectures_at_one_recipe(tmp_path, monkeypatch, capsys):
    """Its trials, shortened."""
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "init", "my study.yaml")[0] == 0
    sets = ("teacher.options.epochs=1", "search.proxy=params", "refine.epochs=1", "distill={epochs: 1, controls: []}")
    sets += ("compress.quantize=[]", "export={formats: [onnx-fp32]}", "run.executor=inprocess", "search.candidates=30")
    code, out, _ = run(capsys, "run", "my study.yaml", "--json", *(part for each in sets for part in ("--set", each)))
    assert code == 0
    (file,) = (tmp_path / "my study" / "artifacts").glob("refine-*/trials.json")
    trials = json.loads(file.read_text())
    assert len({each["architecture"] for each in trials}) == len(trials) == 4
    assert all(each["values"] == {} for each in trials)
    assert [each["path"] for each in json.loads(out)["exports"]] == ["export/my-study-fp32.onnx"]
    found = json.loads(run(capsys, "status", "my study", "--json")[1])
    assert (found["trials"], found["trials_total"], found["stage"], found["held_by"]) == (4, 4, None, None)
    best = max(
        (each for each in trials if each["state"] == "complete"), key=lambda each: each["objectives"]["accuracy"]
    )
    about = {"metric": "accuracy", "title": "", "unit": "share"}
    assert found["best"] == {"number": best["number"], **about, "value": best["objectives"]["accuracy"]}


@pytest.mark.slow
def test_the_study_that_init_writes_runs_unedited(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "init")[0] == 0
    code, out, _ = run(capsys, "run", "study.yaml", "--json")
    assert code == 0
    result = json.loads(out)
    assert result["student"]["accuracy"] > result["baseline"]["accuracy"]
    assert [each["format"] for each in result["exports"]] == ["onnx-fp32", "onnx-int8", "onnx-int4"]
    assert all((tmp_path / "study" / each["path"]).is_file() for each in result["exports"])


@pytest.mark.parametrize("name", ["study.yaml", "study.schema.json"])
def test_init_overwrites_nothing(name, host, capsys):
    Path(name).write_text("mine")
    code, out, err = run(capsys, "init")
    assert (code, out) == (2, "")
    assert err.startswith(f"{name}: exists already; nothing was written")
    assert [each.name for each in Path().iterdir()] == [name]
    assert Path(name).read_text() == "mine"


def test_init_where_nothing_can_be_written_is_one_message(host, capsys):
    Path("file").write_text("")
    code, _, err = run(capsys, "init", "file/study.yaml")
    assert code in (1, 2)
    assert err.count("\n") == 1


def test_validate_says_what_the_study_would_do(host, capsys, monkeypatch):
    monkeypatch.setattr("kdsearch.verbs.preflight.look", summary)  # the small plugin has no data
    code, out, _ = run(capsys, "validate", GOOD, "--json", "--set", "distill.compare={random: 2, epochs: 1}")
    found = json.loads(out)
    assert code == 0
    assert found["valid"] is True
    assert found["students"] == {"student": {"space": "cifar_resnet", "dimensions": 4, "size": 54}}
    assert {"stage": "distill", "what": "compare", "count": 4, "epochs": 1} in found["trainings"]
    assert found["proxies"] == ["nwot", "params"]


def test_validate_plan_asks_the_stages(host, commands, capsys):
    commands.plan = lambda study, host: {"study": study.config.name, "seconds": 3.0}
    assert json.loads(run(capsys, "validate", GOOD, "--plan", "--json")[1]) == {"study": "good", "seconds": 3.0}


CALLS = [
    (
        [
            "run",
            "s.yaml",
            "--dir",
            "d",
            "--workers",
            "2",
            "--seed",
            "3",
            "--set",
            "a.b=1",
            "--set",
            "c=2",
            "--allow-code",
            "x.py:Y",
        ],
        {
            "file": Path("s.yaml"),
            "dir": Path("d"),
            "workers": 2,
            "seed": 3,
            "pick": None,
            "sets": ("a.b=1", "c=2"),
            "allow_code": ("x.py:Y",),
        },
    ),
    (
        ["run", "s.yaml", "--set", "a.b=1", "--pick", "min:params,accuracy>=0.9"],
        {
            "file": Path("s.yaml"),
            "dir": None,
            "workers": None,
            "seed": None,
            "pick": "min:params,accuracy>=0.9",
            "sets": ("a.b=1",),
            "allow_code": (),
        },
    ),
    (
        ["run", "s.yaml", "--json"],
        {
            "file": Path("s.yaml"),
            "dir": None,
            "workers": None,
            "seed": None,
            "pick": None,
            "sets": (),
            "allow_code": (),
        },
    ),
    (
        ["quickstart", "q", "--seed", "5", "--data", "mnist5k", "--teacher", "t"],
        {"dir": Path("q"), "seed": 5, "data": "mnist5k", "teacher": "t"},
    ),
    (["status", "d"], {"dir": Path("d")}),
    (["report", "d", "--allow-code", "x.py:f"], {"dir": Path("d"), "allow_code": ("x.py:f",)}),
    (
        ["export", "d", "--format", "onnx-int4"],
        {"dir": Path("d"), "format": "onnx-int4", "allow_code": ()},
    ),
    (
        ["score", "--space", "s", "--init-seeds", "2"],
        {
            "space": "s",
            "study": None,
            "proxies": ("auto",),
            "archs": None,
            "sample": None,
            "teacher": None,
            "data": None,
            "seed": None,
            "init_seeds": 2,
            "workers": 1,
            "allow_code": (),
        },
    ),
    (
        ["score", "--study", "s.yaml", "--proxies", "a, b", "--sample", "9", "--seed", "4"],
        {
            "space": None,
            "study": Path("s.yaml"),
            "proxies": ("a", "b"),
            "archs": None,
            "sample": 9,
            "teacher": None,
            "data": None,
            "seed": 4,
            "init_seeds": None,
            "workers": 1,
            "allow_code": (),
        },
    ),
]


@pytest.mark.parametrize(("line", "expected"), CALLS, ids=lambda each: each[0] if isinstance(each, list) else "")
def test_a_verb_hands_over_what_was_written(line, expected, commands, capsys):
    seen = {}

    def command(**given):
        seen.update(given)
        return {"accuracy": 0.5, "lost": float("nan"), "dir": "d"}

    setattr(commands, line[0], command)
    commands.summary_of = lambda result, folder: f"{result['accuracy']} in {folder}"
    code, out, err = run(capsys, *line)
    assert (code, err) == (0, "")
    assert seen == expected
    if "--json" in line:
        assert json.loads(out) == {"accuracy": 0.5, "lost": None, "dir": "d"}
    elif line[0] in ("run", "quickstart", "export"):
        assert out == "0.5 in d\n"
    else:
        assert out == "accuracy: 0.5\nlost: nan\ndir: d\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StudyError("wrong", file="s.yaml", line=3), 2),
        (RefusedError("no file passed"), 3),
        (BusyError("held"), 1),
        (StorageError("the disk is full"), 1),
        (InterruptedRun("stopped; go on with `kdsearch run s.yaml`"), 130),
        (KeyboardInterrupt(), 130),
    ],
)
def test_an_error_is_one_message_and_its_exit_code(error, code, commands, capsys):
    def command(**given):
        raise error

    commands.status = command
    found, out, err = run(capsys, "status", "d", "--json")
    assert found == code
    assert (json.loads(out)["exit_code"] if out else 130) == code
    assert err.strip() == (str(error) or "Interrupted.")


def test_a_refusal_prints_its_result_first(commands, capsys):
    def command(**given):
        error = RefusedError("onnx-int4 lost too much")
        error.result = {"refused": [{"format": "onnx-int4", "reason": "x"}], "dir": "d"}
        raise error

    commands.run = command
    commands.summary_of = lambda result, folder: f"{len(result['refused'])} refused in {folder}"
    assert run(capsys, "run", "s.yaml") == (3, "1 refused in d\n", "onnx-int4 lost too much\n")
    code, out, err = run(capsys, "run", "s.yaml", "--json")
    assert code == 3
    assert json.loads(out) == {"refused": [{"format": "onnx-int4", "reason": "x"}], "dir": "d"}
    assert err == "onnx-int4 lost too much\n"


def test_our_own_fault_keeps_its_traceback(commands):
    def command(**given):
        raise ZeroDivisionError("ours")

    commands.status = command
    with pytest.raises(ZeroDivisionError):
        main(["status", "d"])


def test_score_takes_a_file_or_a_sample(commands, capsys):
    code, _, err = run(capsys, "score", "--space", "s", "--proxies", "a", "--sample", "1", "--archs", "f")
    assert (code, err) == (2, "both --archs and --sample are given. Expected one of them.\n")
    code, _, err = run(capsys, "score", "--space", "s", "--proxies", " , ")
    assert code == 2
    assert "names none" in err
