"""Imports go down the list of rooms, kdsearch imports no plugin, plugins import neither one another nor the house, built-ins do as
plugins do, and the kit names what it offers."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = [each.name for each in (ROOT / "kdsearch").iterdir() if (each / "__init__.py").is_file()] + [
    "hooks",
    "errors",
    "limits",
]


def lint(folder: Path, paths: list[Path]) -> subprocess.CompletedProcess[str]:
    code = (
        f"import sys; sys.path[:0] = {[str(path) for path in paths]!r}\n"
        "from importlinter.cli import lint_imports\n"
        "sys.exit(lint_imports(no_cache=True))"
    )
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)


def test_the_house_keeps_its_contracts():
    done = lint(ROOT, [ROOT, ROOT / "plugins", ROOT / "search_spaces"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Contracts: 6 kept, 0 broken." in done.stdout


def test_plugins_and_built_ins_may_use_the_kit(planted):
    """It stands on rooms that they may not import themselves."""
    for file, line in {
        "kdsearch/kit/a.py": "import kdsearch.search, kdsearch.deploy, kdsearch.store",
        "kdsearch/builtin/a.py": "import kdsearch.kit.a, kdsearch.kinds, kdsearch.ops, kdsearch.limits, kdsearch.builtin",
        "kdsearch_plugins/one/a.py": "import kdsearch.kit.a, kdsearch.kinds, kdsearch.ops, kdsearch.hooks, kdsearch.errors",
        "kdsearch_spaces/one/a.py": "import kdsearch.kit.a",
        "kdsearch/stages/a.py": "import kdsearch.kit.a, kdsearch.host",
    }.items():
        (planted / file).write_text(line)
    done = lint(planted, [planted])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("kdsearch/ops/a.py", "from kdsearch import kinds", "imports go down"),
        ("kdsearch/store/a.py", "import kdsearch.kinds", "imports go down"),
        ("kdsearch/host/a.py", "def f():\n    import kdsearch.cli", "imports go down"),
        ("kdsearch/stages/a.py", "import kdsearch_plugins.one", "kdsearch never imports a plugin"),
        ("kdsearch/search/a.py", "import kdsearch.kit", "imports go down"),
        ("kdsearch_plugins/one/a.py", "import kdsearch.engine", "a plugin imports hooks"),
        ("kdsearch_spaces/one/a.py", "def f():\n    import kdsearch.store", "a plugin imports hooks"),
        *(
            ("kdsearch/builtin/a.py", f"import kdsearch.{room}", "a built-in imports what a plugin may")
            for room in ("engine", "search", "deploy", "host", "store")
        ),
        *(
            (f"kdsearch/{room}/a.py", "def f():\n    import kdsearch.builtin", "nothing imports a built-in")
            for room in ("cli", "python", "verbs", "stages", "training", "study")
        ),
        ("kdsearch_plugins/one/a.py", "import kdsearch_plugins.two", "plugins do not import one another"),
        ("kdsearch_spaces/one/a.py", "import kdsearch_plugins.two", "plugins do not import one another"),
    ],
)
def test_each_contract_finds_what_it_is_for(file, line, broken, planted):
    (planted / file).write_text(line)
    done = lint(planted, [planted])
    assert done.returncode == 1
    (name,) = [each for each in done.stdout.splitlines() if each.endswith(" BROKEN")]
    assert name.startswith(broken)


@pytest.fixture
def planted(tmp_path):
    """Empty rooms and plugins under the house's contracts."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text(text[text.index("[tool.importlinter]") :], encoding="utf-8")
    plugins = ["kdsearch_plugins", *(f"kdsearch_plugins.{name}" for name in ("one", "two"))]
    for name in [
        "kdsearch",
        *(f"kdsearch.{room}" for room in ROOMS),
        *plugins,
        "kdsearch_spaces",
        "kdsearch_spaces.one",
    ]:
        folder = tmp_path / name.replace(".", "/")
        folder.mkdir()
        (folder / "__init__.py").touch()
    return tmp_path


KIT = sorted(each.stem for each in (ROOT / "kdsearch/kit").glob("*.py") if each.stem != "__init__")


@pytest.mark.parametrize("name", KIT)
def test_the_kit_names_what_it_offers(name):
    """Each module says what it is about and all that is in it, and plugins.md lists both."""
    module = importlib.import_module(f"kdsearch.kit.{name}")
    assert module.__doc__
    assert all(getattr(module, each).__doc__ for each in module.__all__)
    own = [each for each, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    assert {each for each in own if not each.startswith("_")} <= set(module.__all__)
    (row,) = [
        line for line in (ROOT / "docs/plugins.md").read_text("utf-8").splitlines() if line.startswith(f"| `{name}` |")
    ]
    assert {each for each in module.__all__ if f"`{each}`" not in row} == set()


def test_the_kit_imports_nothing_heavy():
    code = (
        f"import sys, importlib\nfor name in {KIT!r}: importlib.import_module('kdsearch.kit.' + name)\n"
        "heavy = {'onnx', 'onnx_ir', 'onnxruntime', 'optuna', 'onnxscript', 'sklearn', 'torchvision', 'PIL'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stdout + done.stderr


def imports(root: Path) -> dict[str, set[str]]:
    """Module -> modules of the same package that it imports anywhere: at the top, in functions, or for types alone."""
    files = {}
    for file in sorted((root / "kdsearch").rglob("*.py")):
        parts = file.relative_to(root).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return {name: set(_imported(file, files)) - {name} for name, file in files.items()}


def _imported(file: Path, known: dict[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else str(node.module)


def test_no_module_imports_itself_by_a_detour():
    """Deferred imports and those for types count: who reads one module of a ring has to read them all."""
    try:
        TopologicalSorter(imports(ROOT)).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize(
    "late",
    ["from kdsearch.b import x", "def f():\n    import kdsearch.b", "if TYPE_CHECKING:\n    from kdsearch import b"],
)
def test_a_ring_is_found_wherever_its_imports_stand(late, tmp_path):
    (tmp_path / "kdsearch").mkdir()
    (tmp_path / "kdsearch/a.py").write_text(late)
    (tmp_path / "kdsearch/b.py").write_text("from kdsearch.a import y")
    (tmp_path / "kdsearch/__init__.py").touch()
    with pytest.raises(CycleError):
        TopologicalSorter(imports(tmp_path)).prepare()
