"""Imports go down the list of rooms, kdsearch imports no plugin, and plugins import neither one another nor the house."""

from __future__ import annotations

import subprocess
import sys
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
    assert "Contracts: 4 kept, 0 broken." in done.stdout


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("kdsearch/ops/a.py", "from kdsearch import kinds", "imports go down"),
        ("kdsearch/store/a.py", "import kdsearch.kinds", "imports go down"),
        ("kdsearch/host/a.py", "def f():\n    import kdsearch.cli", "imports go down"),
        ("kdsearch/stages/a.py", "import kdsearch_plugins.one", "kdsearch never imports a plugin"),
        ("kdsearch_plugins/one/a.py", "import kdsearch.engine", "a plugin imports hooks"),
        ("kdsearch_plugins/one/a.py", "import kdsearch_plugins.two", "plugins do not import one another"),
        ("kdsearch_spaces/one/a.py", "import kdsearch_plugins.two", "plugins do not import one another"),
    ],
)
def test_each_contract_finds_what_it_is_for(file, line, broken, tmp_path):
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
    assert lint(tmp_path, [tmp_path]).returncode == 0
    (tmp_path / file).write_text(line)
    done = lint(tmp_path, [tmp_path])
    assert done.returncode == 1
    (name,) = [each for each in done.stdout.splitlines() if each.endswith(" BROKEN")]
    assert name.startswith(broken)
