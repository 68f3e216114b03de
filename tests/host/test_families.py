"""A family: one capability for every installed one of another kind, made when it is used."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from kdsearch.cli import main
from kdsearch.errors import PluginError
from kdsearch.hooks import Register, hookimpl
from kdsearch.host import Host
from kdsearch.kinds import NoOptions, Proxy
from tests import small_plugin


def plugin(register) -> SimpleNamespace:
    return SimpleNamespace(kdsearch_register=hookimpl(register))


def named(name: str, cls: type) -> type:
    """What a family's target does: a proxy that remembers what it was made of."""
    return type("Made", (small_plugin.Score,), {"made_of": (name, cls)})


def family(register: Register) -> None:
    register.family("proxy", "kd", "distiller", f"{__name__}:named", about="of any distiller")


def host_with(*extra) -> Host:
    return Host.load(extra=[("small", small_plugin), ("fam", plugin(family)), *extra], entry_points=False)


def test_a_member_is_made_of_the_class_that_its_name_means():
    host = host_with()
    assert host.load_class("proxy", "kd.fitnet").made_of == ("fitnet", small_plugin.Hint)
    found = host.find("proxy", "kd.fitnet")
    assert (found.name, found.plugin.name, found.base) == ("kd.fitnet", "fam", ("distiller", "fitnet"))
    for full in ("fam:proxy:kd.fitnet", "live:proxy:kd.fitnet", "kd.small:distiller:fitnet"):
        assert host.load_class("proxy", full).made_of[1] is small_plugin.Hint


def test_members_are_apart_from_what_plugins_name_themselves():
    host = host_with()
    assert host.members("proxy") == ["kd.fitnet", "kd.kd", "kd.notes", "kd.own_a", "kd.own_b"]
    assert host.members("distiller") == []
    assert not any(name.startswith("kd.") for name in host.names("proxy"))
    assert not any(each.name.startswith("kd") for each in host.entries("proxy"))


def test_an_unknown_member_has_its_nearest_and_the_family_among_what_is_expected():
    with pytest.raises(PluginError) as caught:
        host_with().find("proxy", "kd.fitnett")
    assert caught.value.nearest == "kd.fitnet"
    assert "kd.<distiller>" in caught.value.expected
    with pytest.raises(PluginError, match=r"unknown distiller 'small:distiller:nothing'"):
        host_with().find("proxy", "kd.small:distiller:nothing")
    with pytest.raises(PluginError, match="is a distiller"):
        host_with().find("proxy", "fitnet")
    with pytest.raises(PluginError, match=r"unknown distiller 'kd\.fitnet'"):
        host_with().find("distiller", "kd.fitnet")


def test_a_name_that_a_plugin_registers_itself_comes_before_the_family():
    own = plugin(lambda register: register.proxy("kd.kd", "tests.small_plugin:Score"))
    host = host_with(("own", own))
    assert host.load_class("proxy", "kd.kd") is small_plugin.Score
    assert host.find("proxy", "kd.kd").base is None
    live = host_with().with_classes({("proxy", "kd.kd"): small_plugin.Score})
    assert live.load_class("proxy", "kd.kd") is small_plugin.Score


def test_a_live_class_has_its_member():
    mine = type("Mine", (small_plugin.KD,), {})
    host = host_with().with_classes({("distiller", "mine"): mine, ("distiller", "kd"): mine})
    assert host.load_class("proxy", "kd.mine").made_of == ("mine", mine)
    assert host.load_class("proxy", "kd.kd").made_of[1] is mine
    assert "kd.mine" in host.members("proxy")


def test_a_clash_names_what_to_write():
    other = plugin(lambda register: register.distiller("kd", "tests.small_plugin:Hint"))
    host = host_with(("other", other))
    with pytest.raises(PluginError, match=r"'kd' is registered by 2 plugins.*'kd.other:distiller:kd'"):
        host.find("proxy", "kd.kd")
    assert host.load_class("proxy", "kd.other:distiller:kd").made_of[1] is small_plugin.Hint
    two = host_with(("fam2", plugin(family)))
    with pytest.raises(PluginError, match=r"offered by 2 plugins.*'fam2:proxy:kd.fitnet'"):
        two.find("proxy", "kd.fitnet")
    assert two.find("proxy", "fam2:proxy:kd.fitnet").plugin.name == "fam2"


def test_what_the_target_gives_must_be_of_its_kind():
    bad = plugin(lambda register: register.family("proxy", "odd", "distiller", f"{__name__}:plugin"))
    with pytest.raises(PluginError, match="cannot be imported: TypeError"):
        host_with(("bad", bad)).load_class("proxy", "odd.kd")
    self_made = plugin(lambda register: register.family("proxy", "odd", "distiller", "builtins:divmod"))
    with pytest.raises(PluginError, match="cannot be imported"):
        host_with(("bad", self_made)).load_class("proxy", "odd.kd")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("proxi", "kd", "distiller", "a:b"), "family 'kd' of kinds 'proxi' and 'distiller'"),
        (("proxy", "kd", "proxy", "a:b"), "family 'kd' of kinds 'proxy' and 'proxy'"),
        (("proxy", "k d", "distiller", "a:b"), "family 'k d': expected letters"),
        (("proxy", "kd", "distiller", "a.b"), "target 'a.b' must be"),
    ],
)
def test_a_family_that_is_none_breaks_its_plugin(arguments, error):
    host = host_with(("bad", plugin(lambda register: register.family(*arguments))))
    (broken,) = host.broken
    assert error in broken.error


def test_listings_have_one_line_a_family_and_show_its_members(monkeypatch, capsys):
    host = host_with()
    monkeypatch.setattr(Host, "load", classmethod(lambda cls: host))
    assert main(["plugins", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(each["kind"], each["name"]) for each in found["families"]] == [("proxy", "kd.<distiller>")]
    assert not any(each["name"].startswith("kd.") for each in found["capabilities"])
    assert main(["plugins"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "kd." in line]
    assert len(lines) == 1, "one line, however many distillers there are"
    assert "of any distiller" in lines[0]
    assert main(["plugins", "show", "kd.<distiller>"]) == 0
    assert "kd.fitnet, kd.kd, kd.notes" in capsys.readouterr().out
    assert main(["plugins", "show", "kd.kd", "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)["capabilities"]
    assert (shown["kind"], shown["name"], shown["state"]) == ("proxy", "kd.kd", "ok")
    assert main(["plugins", "show", "kd.kdd"]) == 2
    assert "did you mean 'kd.kd'?" in capsys.readouterr().err


def test_options_follow_a_class_that_is_made_of_a_generic_one():
    class Own(NoOptions):
        pass

    class Base(Proxy[NoOptions]):
        def score(self, student, probe):
            return 0.0

    assert type("Made", (Base,), {"options_class": Own}).options_class is Own
    assert type("Plain", (Base,), {}).options_class is NoOptions
