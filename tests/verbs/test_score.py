"""`kdsearch score`: every proxy scores, and what is wrong is named."""

from __future__ import annotations

import json

import pytest

from kdsearch.cli import main
from kdsearch.host import Host
from kdsearch.search.candidates import reference_specs
from kdsearch.search.ranks import Rank
from kdsearch.store.hashing import stream
from kdsearch.study.names import COMPOSITES
from kdsearch.verbs import score
from kdsearch.verbs.scorers import Setting, open_scorer, open_space

ARCHS = '{"depths": [1, 1, 1], "widths": [4, 4, 8]}\n\n{"depths": [1, 2, 1], "widths": [4, 8, 16]}\n'


@pytest.fixture
def archs(tmp_path):
    file = tmp_path / "archs.jsonl"
    file.write_text(ARCHS)
    return file


def run(capsys, *words):
    code = main(["score", "--space", "cifar_resnet", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


def test_every_proxy_scores_on_a_data_set(archs, capsys):
    names = [name for name in Host.load().names("proxy") if name != "diswot_ms"]  # undefined between unequal widths
    code, out, err = run(capsys, "--proxies", ",".join(names), "--archs", archs, "--data", "digits", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert [row["spec"]["widths"] for row in found["rows"]] == [[4, 4, 8], [4, 8, 16]]
    for row in found["rows"]:
        assert set(row["scores"]) == set(names)
        assert all(isinstance(score, float) for score in row["scores"].values())
        assert row["errors"] == {}
    assert any("M_s is undefined" in note for note in found["notes"])


def test_people_see_the_best_on_top_and_the_notes(archs, capsys):
    code, out, _ = run(capsys, "--proxies", "params,diswot", "--archs", archs)
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split() == ["params", "diswot", "n_params", "n_macs", "architecture"]
    assert "[4,8,16]" in lines[1]
    assert "[4,4,8]" in lines[2]
    assert lines[3].startswith("diswot: M_r alone")


def test_the_sample_is_as_large_as_asked_and_a_function_of_the_seed(capsys):
    rows = [run(capsys, "--proxies", "params", "--sample", 5, "--seed", seed)[1] for seed in (1, 1, 2)]
    assert rows[0] == rows[1] != rows[2]
    assert len(rows[0].splitlines()) == 6


def test_a_space_with_fewer_than_asked_for_says_so(capsys, monkeypatch):
    """64 ResNets of one kind of widths, when 65 are wanted of few draws."""
    monkeypatch.setattr(score, "DRY", 3)
    asked = ["score", "--space", "resnet64", "--proxies", "params", "--sample", "65"]
    assert main([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    n = len(found["rows"])
    assert n < 65
    assert found["notes"] == [f"{n} architectures, not 65: 3 draws in a row brought no other"]
    assert main(asked) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"note: {found['notes'][0]}"


def test_several_initialisations_are_averaged_and_their_spread_is_told(archs, capsys):
    words = ["--proxies", "params,nwot", "--archs", archs, "--data", "digits", "--seed", 5]
    one, three = (json.loads(run(capsys, *words, "--init-seeds", n, "--json")[1]) for n in (1, 3))
    assert (one["init_seeds"], three["init_seeds"]) == (1, 3)
    for single, several in zip(one["rows"], three["rows"], strict=True):
        assert (single["spread"]["nwot"], several["spread"]["params"]) == (0, pytest.approx(0, abs=1e-12))
        assert several["spread"]["nwot"] > 0
        assert single["scores"]["nwot"] != several["scores"]["nwot"]
        # the first of three is the one: no farther from the mean than sqrt(2) deviations
        assert abs(single["scores"]["nwot"] - several["scores"]["nwot"]) <= 1.4143 * several["spread"]["nwot"]
    row = three["rows"][1]
    cells = run(capsys, *words, "--init-seeds", 3)[1].splitlines()[1].split()
    assert cells[0] == f"{row['scores']['params']:.5g}"
    assert cells[1] == f"{row['scores']['nwot']:.5g}+-{row['spread']['nwot']:.2g}"
    assert run(capsys, *words, "--init-seeds", 0)[0] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--proxies", "nwott"], "--proxies: unknown proxy 'nwott'; did you mean 'nwot'"),
        (["--proxies", "autoo"], "--proxies: unknown proxy 'autoo'; did you mean 'auto'? Expected auto, az_nas,"),
        (["--proxies", ","], "--proxies ',' names none"),
        (["--proxies", "nwot", "--sample", 0], "--sample: got 0. Expected 1 or more"),
        (["--proxies", "nwot", "--data", "digitz"], "unknown dataset 'digitz'; did you mean 'digits'"),
        (
            ["--proxies", "diswot_mr", "--teacher", "large", "--sample", 1],
            "--teacher: 'large' is no architecture. Expected a spec as JSON, such as {\"",
        ),
        (
            ["--proxies", "diswot_mr", "--teacher", '{"depth": 3}', "--sample", 1],
            "unknown option 'depth'; did you mean",
        ),
        (["--proxies", "diswot_ms", "--sample", 1], "M_s is undefined"),
    ],
)
def test_what_is_wrong_is_named(words, message, capsys):
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": no spec in the file"),
        (ARCHS + '{"depth": [1, 1, 1]}\n', ":4: depth: unknown option 'depth'; did you mean 'depths'"),
        ("{}\nnonsense\n", ":2: 'nonsense' is no architecture"),
        ("[1]\n", ":1: '[1]' is no architecture. Expected a spec"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(text, message, tmp_path, capsys):
    file = tmp_path / "archs.jsonl"
    file.write_text(text)
    code, _, err = run(capsys, "--proxies", "params", "--archs", file)
    assert code == 2
    assert f"{file}{message}" in err


def test_a_space_of_ones_own(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("class Little:\n    pass\n")
    words = ["score", "--proxies", "params", "--space"]
    assert main([*words, "mine.py:Little"]) == 2
    assert "--allow-code 'mine.py:Little'" in capsys.readouterr().err
    assert main([*words, "mine.py:Litle", "--allow-code", "mine.py:Litle"]) == 2
    assert "'mine.py' has no 'Litle'; did you mean 'Little'" in capsys.readouterr().err
    assert main([*words, "mine.py:Little", "--allow-code", "mine.py:Little"]) == 2
    assert "Expected a subclass of kinds.SearchSpace" in capsys.readouterr().err


@pytest.mark.parametrize(("space", "proxies"), [("resnet64", "params,diswot_mr,relation"), ("mlp", "auto,synflow")])
def test_processes_and_order_change_no_score(space, proxies, tmp_path, capsys):
    """Scores are bit-equal forwards, backwards and in two processes."""
    opened, rng = open_space(space, Host.load(), ()), stream(0, "order")
    lines = sorted({opened.encode(opened.sample(rng)) for _ in range(4)})
    rows = {}
    for name, order, workers in [("there", lines, 1), ("back", lines[::-1], 1), ("two", lines, 2)]:
        file = tmp_path / name
        file.write_text("\n".join(order))
        words = [
            "score",
            "--space",
            space,
            "--proxies",
            proxies,
            "--archs",
            str(file),
            "--json",
            "--workers",
            workers,
        ]
        assert main([str(word) for word in words]) == 0
        rows[name] = {row["key"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert rows["there"] == rows["back"] == rows["two"]
    assert list(next(iter(rows["two"].values()))["scores"]) == proxies.split(",")


def test_auto_is_the_mean_of_its_terms_ranks_among_architectures_of_the_space(capsys, few_in_reference):
    words = ["score", "--space", "mlp", "--sample", "3", "--json", "--proxies"]
    terms = COMPOSITES["auto"]
    assert main([*words, ",".join(["auto", *terms])]) == 0
    together = json.loads(capsys.readouterr().out)["rows"]
    assert main([*words, "auto"]) == 0
    alone = json.loads(capsys.readouterr().out)["rows"]
    assert [row["scores"]["auto"] for row in together] == [row["scores"]["auto"] for row in alone]
    scorer = open_scorer(Setting("mlp", tuple(terms)))
    reference = [scorer.score(spec).scores for spec in reference_specs(scorer.space, 0, few_in_reference)]
    ranks = {name: Rank([scores[name] for scores in reference]) for name in terms}
    sizes = [scores["params"] for scores in reference]
    weights = {
        "relation": 1,
        "params": 1 + sum(sizes.count(each) == 1 for each in sizes) / len(sizes),
        "synflow": 1 / 8,
    }
    for row in together:
        roots = [weight * ranks[name](row["scores"][name]) ** (1 / 3) for name, weight in weights.items()]
        assert row["scores"]["auto"] == pytest.approx((sum(roots) / sum(weights.values())) ** 3)
