"""`kdsearch bench proxies` on small tables of its own."""

from __future__ import annotations

import json
import re

import pytest
from kdsearch_spaces.cifar_resnet.resnet64 import ResNet64Space
from scipy.stats import kendalltau, spearmanr

from kdsearch.cli import main
from kdsearch.host import Host
from kdsearch.search.scoring import Scored
from kdsearch.verbs import bench as bench_module
from kdsearch.verbs.bench import _names, _reasons, _undefined
from kdsearch.verbs.scorers import Setting

DEPTHS = [(1, 1, 1), (3, 1, 1), (1, 3, 1), (1, 1, 3), (3, 3, 1), (1, 3, 3)]
ACCURACY = [50.0, 52.0, 51.0, 57.0, 56.0, 60.0]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.csv"
    rows = [f"{a},{b},{c},{acc},1,1" for (a, b, c), acc in zip(DEPTHS, ACCURACY, strict=True)]
    path.write_text("\n".join(["d1,d2,d3,acc,params,macs", *rows]) + "\n")  # wrong params: they come from the space
    return path


def run(capsys, *words):
    code = main(["bench", "proxies", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


def bench(capsys, table, *words):
    code, out, err = run(capsys, "--space", "resnet64", "--table", table, "--column", "acc", *words, "--json")
    assert code == 0, err
    return json.loads(out)


def test_a_table_that_cannot_be_read_is_told_before_a_proxy_is_tried(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench_module, "_undefined", lambda *_: pytest.fail("tried"))
    code, _, err = run(capsys, "--space", "resnet64", "--table", tmp_path / "none.csv", "--column", "acc")
    assert code == 2
    assert "none.csv" in err


def test_rows_tell_how_well_each_proxy_ranks(table, capsys):
    found = bench(capsys, table, "--proxies", "params,macs,synflow")
    space = ResNet64Space()
    costs = [space.cost(space.decode(f"{a},{b},{c}"), space.example_io()) for a, b, c in DEPTHS]
    params, macs, synflow = found["rows"]
    assert (found["space"], found["column"], found["sample"], found["classes"]) == ("resnet64", "acc", 6, 6)
    assert [row["proxy"] for row in found["rows"]] == ["params", "macs", "synflow"]
    assert params["kendall_tau"] == pytest.approx(kendalltau([cost.params for cost in costs], ACCURACY).statistic)
    assert macs["spearman_rho"] == pytest.approx(spearmanr([cost.macs for cost in costs], ACCURACY).statistic)
    assert synflow["top10_best"] == 60.0
    assert params["tau_beyond_params"] is None
    low, high = synflow["tau_beyond_params"]["interval"]
    assert synflow["tau_beyond_params"]["difference"] == pytest.approx(synflow["kendall_tau"] - params["kendall_tau"])
    assert low <= synflow["tau_beyond_params"]["difference"] <= high
    assert synflow["tau_in_param_bins"] is None  # no bin of ten nets
    assert all(row["archs_per_second"] > 0 and row["nan"] == 0 for row in found["rows"])


def test_without_names_auto_its_terms_and_the_baselines():
    usual = ("auto", "relation", "params", "synflow", "diswot", "nwot", "macs", "layers")
    assert _names(()) == usual
    every = _names(("all",))
    assert every[: len(usual)] == usual
    assert set(every) == {*usual, *Host.load().names("proxy")}
    assert _names(("nwot", "auto", "nwot")) == ("nwot", "auto")


def without_rates(found):
    return [{name: value for name, value in row.items() if name != "archs_per_second"} for row in found["rows"]]


def test_processes_change_nothing(table, capsys):
    words = ("--proxies", "relation,nwot")
    one, two = (bench(capsys, table, *words, *more) for more in ((), ("--workers", 2)))
    assert without_rates(one) == without_rates(two)


def test_a_sample_is_drawn_by_the_seed(table, capsys):
    taus = [
        bench(capsys, table, "--proxies", "params", "--sample", 4, "--seed", s)["rows"][0]["kendall_tau"]
        for s in range(6)
    ]
    assert len(set(taus)) > 1
    again = bench(capsys, table, "--proxies", "params", "--sample", 4, "--seed", 3)
    assert (again["sample"], again["rows"][0]["kendall_tau"]) == (4, taus[3])


def test_isomorphic_rows_share_a_score_and_keep_their_params(tmp_path, capsys):
    """Two cells of one class, whose dead branch costs params, and a smaller cell."""
    path = tmp_path / "cells.csv"
    dead, alive = (
        "|nor_conv_3x3~0|+|none~0|none~1|+|{}~0|none~1|none~2|",
        "|none~0|+|none~0|none~1|+|{}~0|none~1|none~2|",
    )
    rows = [(dead.format("nor_conv_1x1"), 80), (alive.format("nor_conv_1x1"), 70), (alive.format("skip_connect"), 60)]
    path.write_text("arch,acc\n" + "".join(f"{arch},{acc}\n" for arch, acc in rows))
    code, out, _ = run(
        capsys, "--space", "nb201", "--table", path, "--column", "acc", "--proxies", "synflow,params", "--json"
    )
    assert code == 0
    found = json.loads(out)
    synflow, params = found["rows"]
    assert (found["sample"], found["classes"]) == (3, 2)
    assert params["kendall_tau"] == pytest.approx(1.0)
    assert synflow["kendall_tau"] == pytest.approx(kendalltau([1, 1, 0], [80, 70, 60]).statistic)


def test_a_proxy_without_a_score_is_counted(table, capsys):
    row = bench(capsys, table, "--proxies", "epe_nas", "--sample", 3)["rows"][0]
    assert row["nan"] in range(4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--column", "accuracy"), "no column 'accuracy'. Expected acc, macs or params"),
        (("--proxies", "nwott"), "unknown proxy 'nwott'; did you mean 'nwot'"),
        (("--sample", 1), "--sample: got 1. Expected 2 or more"),
        (("--space", "nb201"), ":2: d1, d2, d3: '1,1,1' is no cell. Expected |op~0|+"),
        (("--space", "nb210"), "unknown search space 'nb210'; did you mean 'nb201'"),
        (("--table", "nowhere.csv"), "nowhere.csv: no such file"),
    ],
)
def test_what_is_wrong_is_named(words, message, table, capsys):
    given = {"--space": "resnet64", "--table": table, "--column": "acc", "--proxies": "params", words[0]: words[1]}
    code, out, err = run(capsys, *[each for pair in given.items() for each in pair])
    assert (code, out) == (2, "")
    assert message in err


SAME = "Architectures with several different values: 2, such as 50 in line 2, 59 in line 8, 50 in line 10."


@pytest.mark.parametrize(
    ("rows", "notes"),
    [
        ("", []),
        ("1,1,1,59,1,1\n3,1,1,53,1,1\n1,1,1,50,1,1\n", [SAME]),
        ("3,1,1,52,1,1\n", []),  # as it was said before
    ],
)
def test_rows_that_contradict_one_another_are_counted(table, rows, notes, capsys):
    table.write_text(table.read_text() + rows)
    assert bench(capsys, table, "--proxies", "params")["notes"] == notes


def test_that_an_order_of_few_says_nothing_is_said(table, capsys):
    table.write_text("d1,d2,d3,acc\n1,1,1,60\n3,3,3,50\n")
    said = "2 networks with 2 different values: how scores rank so few is chance."
    assert bench(capsys, table, "--proxies", "params")["notes"] == [said]
    table.write_text("d1,d2,d3,acc\n" + "".join(f"1,1,{d},{50 + d // 4}\n" for d in (1, 3, 5, 7)))
    (note,) = bench(capsys, table, "--proxies", "params")["notes"]
    assert note.startswith("4 networks with 2 different values")


def test_the_table_for_people(table, capsys):
    code, out, _ = run(
        capsys, "--space", "resnet64", "--table", table, "--column", "acc", "--proxies", "params,synflow"
    )
    assert code == 0
    assert out.splitlines()[0] == "resnet64, acc: 6 rows, 6 different networks"
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["proxy", "params", "synflow"]
    shown = re.search(r" ([+-]\d\.\d{3}) \[([+-]\d\.\d{3}), ([+-]\d\.\d{3})\]$", out.splitlines()[3])
    difference, low, high = map(float, shown.groups())
    assert low <= difference <= high
    assert out.splitlines()[2].endswith("    0"), "params is not held against itself"


def test_search_strategies_on_a_table(capsys, tmp_path):
    """Accuracy follows the parameters: the largest first is unbeatable, random search is not; each finds the best in the end."""
    table = tmp_path / "table.csv"
    rows = [
        "d1,d2,d3,acc",
        *(f"{a},{b},{c},{60 + a + 2 * b + 4 * c}" for a in (1, 3) for b in (1, 3) for c in (1, 3, 5)),
    ]
    table.write_text("\n".join(rows) + "\n")
    words = ["bench", "search", "--space", "resnet64", "--table", table, "--column", "acc", "--budget", "1,3,12"]
    words += ["--repeats", "3", "--json"]
    assert main([str(word) for word in words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["strategy"] for row in found["rows"]] == [
        name for name in ("kdsearch", "random", "evolution", "tpe", "nsga2", "params_top_k") for _ in range(3)
    ]
    assert found["optimum"] == 60 + 3 + 6 + 20
    after = {(row["strategy"], row["budget"]): row for row in found["rows"]}
    for name in dict.fromkeys(name for name, _ in after):
        assert after[name, 12]["regret"] == pytest.approx(0.0)
        assert after[name, 1]["mean_best"] <= after[name, 3]["mean_best"] <= after[name, 12]["mean_best"]
        assert after[name, 3]["regret"] == pytest.approx(found["optimum"] - after[name, 3]["mean_best"])
    assert after["params_top_k", 1] == {
        "strategy": "params_top_k",
        "budget": 1,
        "mean_best": 89.0,
        "std_best": 0.0,
        "regret": 0.0,
    }
    assert after["random", 1]["mean_best"] < 89
    assert after["kdsearch", 1]["mean_best"] > after["random", 1]["mean_best"]
    assert found["candidates"] == 12  # as many as a study scores by default, or as there are
    assert main([*(str(word) for word in words[:-1]), "--max-params", "0.5", "--strategies", "params_top_k"]) == 0
    out = capsys.readouterr().out
    assert "at most 50% of the largest one's parameters" in out
    *_, row, note = out.splitlines()
    assert row.split()[0] == "params_top_k"
    assert found["notes"] == []
    n = int(re.match(r"note: The table has (\d+) networks: \1 trainings in place of 12\.$", note)[1])
    assert 3 < n < 12
    assert out.splitlines()[1].split() == ["after", "1", "3", str(n)]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--budget", "10,x"], "--budget: got '10,x'"),
        (["--budget", "0"], "--budget: got '0'"),
        (["--strategies", "tpe,evolutoin"], "unknown strategy 'evolutoin'; did you mean 'evolution'?"),
        (["--max-params", "0.0001"], "--max-params: got 0.0001"),
        (["--max-params", "1.5"], "--max-params: got 1.5"),
    ],
)
def test_wrong_words_for_a_search(words, says, capsys, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("d1,d2,d3,acc\n1,1,1,50\n3,3,3,60\n")
    assert main(["bench", "search", "--space", "resnet64", "--table", str(table), "--column", "acc", *words]) == 2
    assert says in capsys.readouterr().err


def test_of_all_proxies_those_without_meaning_are_named_and_left_out():
    found = _undefined(Setting("mlp", ()), ["params", "nwot", "diswot_ms", "kd.fitnet"])
    assert list(found) == ["diswot_ms", "kd.fitnet"]
    assert "M_s is undefined: 'mlp' is" in found["diswot_ms"]


def test_networks_without_a_score_say_why():
    row = Scored("a", {}, 1, 1, {"zen": 1.0, "auto": None}, {}, {"synflow": "no finite number, but -inf"})
    fine = Scored("b", {}, 1, 1, {"zen": 1.0, "auto": 0.5}, {})
    assert list(_reasons(["zen", "auto"], {"a": row, "b": fine})) == [
        "auto: 1 networks have no score, the first as: no finite number, but -inf"
    ]
