"""What is installed is found, what is broken hurts nothing else, and a name means one capability."""

from __future__ import annotations

import json
import re
import sys
from importlib import import_module
from pathlib import Path
from types import MappingProxyType, ModuleType, SimpleNamespace

import pytest

from kdsearch.builtin.text.sequence_kd import SequenceKd
from kdsearch.cli import main
from kdsearch.cli.plugins import listing
from kdsearch.cli.show import describe
from kdsearch.errors import InterruptedRun, PluginError
from kdsearch.hooks import KINDS, Register, hookimpl
from kdsearch.host import Host, sources
from kdsearch.kinds import Access
from kdsearch.store import hashing
from tests import small_plugin


def plugin(register=None, **hooks) -> SimpleNamespace:
    """A plugin object with the given hooks, each marked as an implementation."""
    named = {f"kdsearch_{name}": hookimpl(function) for name, function in hooks.items()}
    if register:
        named["kdsearch_register"] = hookimpl(register)
    return SimpleNamespace(**named)


def names(kind: str, *entries: tuple[str, str]) -> SimpleNamespace:
    def kdsearch_register(register: Register) -> None:
        for name, target in entries:
            register.add(kind, name, target)

    return plugin(kdsearch_register)


def only(*extra: tuple[str, object]) -> Host:
    return Host.load(extra=extra, entry_points=False)


class Installed:
    """Distributions as pip leaves them, in a folder on sys.path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, distribution: str, version: str, points: str, requires: tuple[str, ...] = (), **modules: str) -> None:
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        asked = "".join(f"Requires-Dist: {each}\n" for each in requires)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n{asked}")
        (info / "entry_points.txt").write_text(points)
        for name, text in modules.items():
            (self.folder / f"{name}.py").write_text(text)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield Installed(tmp_path)
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


GOOD = """
from kdsearch.hooks import hookimpl
@hookimpl
def kdsearch_register(register):
    register.proxy("{name}", "{target}", extra="{extra}")
"""


def test_the_built_ins_come_through_the_same_door():
    host = Host.load()
    assert "builtin" in {each.name for each in host.plugins} | {each.plugin for each in host.broken}
    ours = [each for each in host.plugins if each.distribution == "kdsearch"]
    assert {"classics", "zero_cost"} <= {each.name for each in ours}
    assert all(each.version == "0.1.0" for each in ours)
    assert host.find("distiller", "kd").plugin.name == "classics"


def test_an_installed_plugin_is_found_with_its_version_and_imported_when_used(installed):
    installed.add(
        "acme-kd",
        "1.2.3",
        "[kdsearch.v1]\nacme = acme_register\n",
        acme_register=GOOD.format(name="acme_score", target="acme_heavy:Acme", extra=""),
        acme_heavy="from tests.small_plugin import Score\nclass Acme(Score):\n    pass\n",
    )
    host = Host.load()
    found = host.find("proxy", "acme_score")
    assert (found.plugin.name, found.plugin.distribution, found.plugin.version) == ("acme", "acme-kd", "1.2.3")
    assert "acme_heavy" not in sys.modules
    assert host.load_class("proxy", "acme_score").__name__ == "Acme"
    assert host.load_class("proxy", "acme-kd:proxy:acme_score") is host.load_class("proxy", "acme:proxy:acme_score")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("raise RuntimeError('no\\nluck')", "RuntimeError: no luck"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("import no_such_module_at_all", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("def broken(:", "SyntaxError"),
        ("x = 1", "no hook found"),
        ("def kdsearch_register(register): pass", "no hook found"),
        (GOOD.format(name="a b", target="m:C", extra=""), "capability name 'a b'"),
        (GOOD.format(name="a", target="m", extra=""), "target 'm' must be 'package.module:Class'"),
        ("from kdsearch.hooks import hookimpl\n@hookimpl\ndef kdsearch_registre(register): pass", "kdsearch_registre"),
        (
            "from kdsearch.hooks import hookimpl\n@hookimpl\ndef kdsearch_register(register):\n"
            "    register.proxy('x', 'a:B'); raise SystemExit",
            "SystemExit",
        ),
    ],
)
def test_a_broken_plugin_is_listed_and_hurts_nothing_else(installed, text, error):
    installed.add("bad-kd", "0.9", "[kdsearch.v1]\naaa = bad_register\n", bad_register=text)
    host = Host.load()
    (bad,) = [each for each in host.broken if each.plugin == "aaa"]
    assert (bad.distribution, bad.version) == ("bad-kd", "0.9")
    assert error in bad.error
    assert "\n" not in bad.error
    assert host.find("distiller", "kd").plugin.name == "classics"
    assert "x" not in host.names("proxy"), "a broken plugin's names do not count"


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt(), InterruptedRun("stopped")])
def test_an_interrupt_is_not_a_broken_plugin(interrupt):
    def kdsearch_register(register: Register) -> None:
        raise interrupt

    with pytest.raises(type(interrupt)):
        only(("x", plugin(kdsearch_register)))


def test_plugins_of_another_major_version_are_listed_unimported(installed):
    text = "raise AssertionError('imported')"
    installed.add("old-kd", "1.0", "[kdsearch.v0]\nold = old_register\n", old_register=text)
    installed.add("new-kd", "9.0", "[kdsearch.v2]\nnew = new_register\n", new_register=text)
    broken = {each.plugin: each for each in Host.load().broken}
    for name, group in (("old", "kdsearch.v0"), ("new", "kdsearch.v2")):
        assert f"needs another kdsearch: written for '{group}'" in broken[name].error
        assert f"{name}_register" not in sys.modules


def test_what_a_plugin_prints_while_it_loads_does_not_reach_stdout(installed, capsys):
    installed.add("loud", "1", "[kdsearch.v1]\nloud = loud_register\n", loud_register="print('hello')\n")
    Host.load()
    out, err = capsys.readouterr()
    assert out == ""
    assert "hello" in err


def test_an_unknown_name_has_its_nearest_and_where_else_it_is():
    host = only(("small", small_plugin))
    with pytest.raises(PluginError) as caught:
        host.find("distiller", "fitnett")
    assert caught.value.nearest == "fitnet"
    assert caught.value.expected == "fitnet, kd, notes, own_a or own_b"
    with pytest.raises(PluginError, match="'int8' is a quantizer"):
        host.find("pruner", "int8")
    with pytest.raises(PluginError, match="'small:quantizer:int8' names a quantizer"):
        host.find("pruner", "small:quantizer:int8")


def test_a_clash_is_an_error_only_where_the_name_is_used(installed):
    for name in ("one", "two"):
        installed.add(
            f"{name}-kd",
            "1.0",
            f"[kdsearch.v1]\n{name} = {name}_register\n",
            **{f"{name}_register": GOOD.format(name="same", target="tests.small_plugin:Score", extra="")},
        )
    host = Host.load()
    assert [found.plugin.name for found in host.conflicts()["proxy", "same"]] == ["one", "two"]
    assert host.names("proxy").count("same") == 1
    with pytest.raises(PluginError) as caught:
        host.find("proxy", "same")
    assert caught.value.exit_code == 2
    assert "Write 'one-kd:proxy:same' or 'two-kd:proxy:same'." in str(caught.value)
    assert host.find("proxy", "two-kd:proxy:same").plugin.name == "two"
    with pytest.raises(PluginError, match="proxy 'same' is not in 'three-kd'"):
        host.find("proxy", "three-kd:proxy:same")
    assert host.find("distiller", "kd").plugin.name == "classics"


def test_a_name_that_kdsearch_has_stays_its_own(installed):
    installed.add(
        "bold-kd",
        "1.0",
        "[kdsearch.v1]\nclassics = bold_register\n",
        bold_register=GOOD.format(name="params", target="tests.small_plugin:Score", extra=""),
    )
    host = Host.load()
    assert len(host.conflicts()["proxy", "params"]) == 2
    assert host.find("proxy", "params").plugin.distribution == "kdsearch"
    assert host.find("proxy", "bold-kd:proxy:params").plugin.distribution == "bold-kd"
    shown = {each["distribution"]: each["state"] for each in describe(host, "params")["capabilities"]}
    assert shown == {"kdsearch": "ok", "bold-kd": "ok"}
    [kd] = describe(host, "distiller:kd")["capabilities"]
    assert kd["state"] == "ok", "its plugin is called as the other is"


def test_a_clash_within_one_distribution_is_resolved_by_the_plugins_names():
    host = only(("a", names("proxy", ("p", "m:A"))), ("b", names("proxy", ("p", "m:B"))))
    with pytest.raises(PluginError, match="Write 'a:proxy:p' or 'b:proxy:p'"):
        host.find("proxy", "p")
    assert host.find("proxy", "b:proxy:p").entry.target == "m:B"


def test_a_name_twice_in_one_plugin_breaks_it():
    host = only(("a", names("proxy", ("p", "m:A"), ("p", "m:B"))))
    (broken,) = host.broken
    assert (broken.plugin, broken.distribution, broken.version) == ("a", "live", "0")
    assert broken.error.startswith("ValueError: proxy 'p' is registered twice by this plugin (in ")
    assert not host.plugins


def test_a_missing_extra_names_the_pip_command(installed):
    installed.add(
        "acme-kd",
        "1.0",
        "[kdsearch.v1]\nacme = acme_register\n",
        acme_register=GOOD.format(name="acme_score", target="acme_needs:Acme", extra="fast"),
        acme_needs="import no_such_module_at_all\n",
    )
    with pytest.raises(PluginError) as caught:
        Host.load().load_class("proxy", "acme_score")
    assert caught.value.fix == 'Run: pip install "acme-kd[fast]"'
    assert "No module named 'no_such_module_at_all'" in str(caught.value)


@pytest.mark.parametrize(("extra", "lacks"), [("fast", ["no-such-thing"]), ("known", []), ("", [])])
def test_what_an_extra_lacks_is_known_without_an_import(installed, extra, lacks):
    installed.add(
        "acme-kd",
        "1.0",
        "[kdsearch.v1]\nacme = acme_register\n",
        (
            "no-such-base",  # of the distribution itself: no extra asks for it
            'no-such-thing>=2; extra == "fast"',
            'numpy; extra == "fast"',
            'numpy>=1; extra == "known"',
            'no-such-old; extra == "fast" and python_version < "3"',
        ),
        acme_register=GOOD.format(name="acme_score", target="acme_needs:Acme", extra=extra),
        acme_needs="raise AssertionError('imported')\n",
    )
    host = Host.load()
    found = host.find("proxy", "acme_score")
    assert host.lacks(found) == lacks
    (row,) = (each for each in listing(host)["capabilities"] if each["name"] == "acme_score")
    assert row["state"] == ("not installed" if lacks else "ok")


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("tests.small_plugin:KD", "Expected a subclass of kdsearch.kinds.Proxy"),
        ("tests.small_plugin:HERE", "is 'tests.small_plugin'"),
        ("tests.small_plugin:Nothing", "cannot be imported: AttributeError"),
        ("no_such_module_at_all:X", "cannot be imported: ModuleNotFoundError"),
        ("kdsearch.kinds:Proxy", "does not define score"),
        ("exits:Score", "cannot be imported: SystemExit: 1"),
    ],
)
def test_a_capability_that_is_none_says_why(target, error, tmp_path, monkeypatch):
    (tmp_path / "exits.py").write_text("raise SystemExit(1)")
    monkeypatch.syspath_prepend(str(tmp_path))
    host = only(("a", names("proxy", ("p", target))))
    with pytest.raises(PluginError) as caught:
        host.load_class("proxy", "p")
    assert error in str(caught.value)


def test_every_kind_has_a_contract_that_its_capability_meets():
    host = only(("small", small_plugin))
    kinds = {each.kind for each in host.entries()}
    assert kinds == set(KINDS) - {"data_recipe"}
    for each in host.entries():
        assert isinstance(host.load_class(each.kind, each.name), type)


@pytest.mark.parametrize(
    ("kind", "attribute", "value", "expected"),
    [
        ("distiller", "paper_weights", None, "a mapping"),
        ("distiller", "access", None, r"a kdsearch\.kinds\.Access"),
        ("distiller", "access", 3, r"a kdsearch\.kinds\.Access"),
        ("distiller", "needs_teacher", None, "True or False"),
        ("distiller", "term_names", "logits", "a tuple of names"),
        ("procedure", "roles", None, "a tuple of names"),
        ("procedure", "roles", "student", "a tuple of names"),
        ("task", "metrics", None, "a tuple of names"),
        ("metric", "unit", None, "text"),
        ("executor", "slots", True, "a whole number"),
        ("executor", "slots", None, "a whole number"),
        ("quantizer", "elsewhere", "0.1", "a number"),
    ],
)
def test_what_a_class_says_of_itself_is_of_its_type(kind, attribute, value, expected):
    host = only(("small", small_plugin))
    found = host.entries(kind)[0]
    own = type("Own", (host.load_class(kind, found.name),), {attribute: value})
    with pytest.raises(
        PluginError, match=rf"`{attribute}` of {kind} 'own' .* is {re.escape(repr(value))}. Expected {expected}"
    ):
        host.with_classes({(kind, "own"): own})


def test_what_a_class_says_of_itself_may_be_computed_or_a_list():
    host = only(("small", small_plugin))
    parts = {
        "access": property(lambda self: Access.LOGITS),
        "term_names": ["logits"],
        "paper_weights": MappingProxyType({}),
    }
    own = type("Own", (host.load_class("distiller", "kd"),), parts)
    assert host.with_classes({("distiller", "own"): own}).load_class("distiller", "own") is own


def test_what_may_be_none_by_its_contract_may_be_none():
    whole = type("Whole", (SequenceKd,), {"chunk": None})
    assert only().with_classes({("data_recipe", "whole"): whole}).load_class("data_recipe", "whole") is whole
    with pytest.raises(PluginError, match=r"`chunk` of data recipe 'text' .* is '16'\. Expected a whole number"):
        only().with_classes({("data_recipe", "text"): type("Text", (SequenceKd,), {"chunk": "16"})})


def test_entries_are_in_the_order_of_kinds_and_names():
    found = [(each.kind, each.name) for each in only(("small", small_plugin)).entries()]
    assert found == sorted(found, key=lambda each: (KINDS.index(each[0]), each[1]))


def test_live_classes_come_first_and_must_be_of_their_kind():
    host = only(("small", small_plugin))
    mine = type("Mine", (small_plugin.KD,), {})
    assert host.with_classes({("distiller", "kd"): mine}).load_class("distiller", "kd") is mine
    assert "other" in host.with_classes({("distiller", "other"): mine}).names("distiller")
    assert host.load_class("distiller", "kd") is small_plugin.KD
    with pytest.raises(PluginError, match=r"Expected a subclass of kdsearch\.kinds\.Proxy"):
        host.with_classes({("proxy", "x"): mine})


def test_an_event_reaches_every_plugin_and_one_that_raises_is_named_once():
    seen = []

    def fails(event):
        raise SystemExit("tired")

    def listens(event):
        seen.append(event["name"])

    host = only(
        ("bad", plugin(lambda register: None, event=fails)), ("good", plugin(lambda register: None, event=listens))
    )
    host.event({"name": "a"})
    host.event({"name": "b"})
    assert seen == ["a", "b"]
    (failure,) = host.failures.values()
    assert failure.error.startswith("kdsearch_event: SystemExit: tired (in fails, test_plugin_host.py:")


def test_report_sections_leave_out_what_raises_or_is_malformed():
    def fails(study):
        raise ValueError("no figure")

    host = only(
        ("bad", plugin(lambda register: None, report=fails)),
        ("odd", plugin(lambda register: None, report=lambda study: [1, 2])),
        ("none", plugin(lambda register: None, report=lambda study: None)),
        ("good", plugin(lambda register: None, report=lambda study: [("T", f"<p>{study['name']}</p>")])),
    )
    (section,) = host.report_sections({"name": "s"})
    assert (section.plugin, section.title, section.html) == ("good", "T", "<p>s</p>")
    assert {name for name, _ in host.failures} == {"bad", "odd"}


def test_a_module_is_a_plugin_too():
    module = ModuleType("m")
    module.kdsearch_register = hookimpl(lambda register: register.metric("m", "a:B"))
    assert only(("m", module)).names("metric") == ["m"]


TORN_SPACE = """
from kdsearch.kinds import NoOptions, SearchSpace
class Torn(SearchSpace[NoOptions]):
    def build(self, spec, io): raise NotImplementedError
    def narrowed(self, io): raise ValueError("torn")
"""


def test_what_a_plugin_raises_in_any_command_has_its_name(installed, capsys):
    registers = GOOD.format(name="torn", target="torn_heavy:Torn", extra="").replace(".proxy(", ".search_space(")
    installed.add(
        "acme-kd", "1.2", "[kdsearch.v1]\ntorn = torn_register\n", torn_register=registers, torn_heavy=TORN_SPACE
    )
    assert main(["score", "--space", "torn", "--proxies", "params", "--json"]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("plugin 'torn' of acme-kd 1.2 fails: ValueError: torn (in narrowed, torn_heavy.py:5)")
    assert json.loads(out)["error"]["type"] == "PluginError"
    assert "Traceback" not in err


def test_a_class_of_an_installed_package_that_is_handed_over_counts_by_its_version(installed, monkeypatch):
    """A wheel's files lie where packages do, so that its source is not read."""
    monkeypatch.setattr(hashing, "_ROOTS", (str(installed.folder),))
    installed.add(
        "acme-live", "1.0", "", acme_live="from tests.small_plugin import Score\nclass Acme(Score):\n    pass\n"
    )
    (installed.folder / "acme_live-1.0.dist-info" / "top_level.txt").write_text("acme_live\n")
    acme, found = import_module("acme_live").Acme, []
    for version in ("1.0", "1.1"):
        sources.brought_by.cache_clear()
        (installed.folder / "acme_live-1.0.dist-info" / "METADATA").write_text(f"Name: acme-live\nVersion: {version}\n")
        found.append(sources.identity(only().with_classes({("proxy", "acme"): acme}), "proxy", "acme"))
    sources.brought_by.cache_clear()
    assert [each.rpartition(" acme-live ")[2] for each in found] == ["1.0", "1.1"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("zzyzx", "Install the package that brings it, here and wherever the study runs."),
        ("acme-kd:distiller:zzyzx", "Install the package that brings it, here and wherever the study runs: acme-kd."),
    ],
)
def test_of_a_name_that_nothing_is_like_the_package_is_not_there(name, words):
    with pytest.raises(PluginError, match=f"unknown distiller '{name}'") as caught:
        Host.load().find("distiller", name)
    assert caught.value.fix == words
