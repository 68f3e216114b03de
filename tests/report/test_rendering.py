"""Any result and evidence render to well-formed HTML and charts that say what the numbers say."""

from __future__ import annotations

import html
import json
import math
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from conftest import make_evidence, make_result
from hypothesis import given, settings
from hypothesis import strategies as st

from kdsearch.kinds import Figure, Picture, Table
from kdsearch.report import tables
from kdsearch.report.charts import PALETTE, axis
from kdsearch.report.curves_figure import curves_figure
from kdsearch.report.figures import figures, framed
from kdsearch.report.front_figure import front_figure
from kdsearch.report.html_table import simple
from kdsearch.report.ladder_figure import ladder_figure, weights_figure
from kdsearch.report.page import render
from kdsearch.report.proxy_figure import proxy_figure
from kdsearch.report.summary import header, verdict
from kdsearch.report.words import architecture

VOID = {"meta", "br", "hr", "img", "wbr", "link"}
STRANGE = [math.nan, math.inf, -math.inf, 0, -1, 1e-320, 1e308, 10**400, True, None]
STRANGE += ["", "</script>", "\x00\ud800", "很长" * 200, [], {}]
anything = st.one_of(st.sampled_from(STRANGE), st.floats(), st.integers(), st.text(max_size=20))
loose = st.recursive(
    anything,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def of(*keys: str, values: st.SearchStrategy[Any] = loose) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(keys), values, max_size=len(keys))


KEYS = "study dir seed teacher student baseline all_labels exports recommended refused metrics seconds notes data "
KEYS += "compare constraints provenance report"
RESULTS = of(
    *KEYS.split(),
    values=loose
    | of("params", "accuracy", "architecture", "macs", "recipe", "counts", "classes", "format", "why")
    | st.lists(
        of("format", "path", "bytes", "accuracy", "latency_ms", "weight_share", "reason", "name", "params"), max_size=3
    ),
)
CANDIDATE = of("key", "architecture", "params", "macs", "scores", "score", "kept", "feasible")
TRIAL = of(
    "curve",
    "number",
    "architecture",
    "values",
    "state",
    "objectives",
    "feasible",
    "params",
    "macs",
    "latency_ms",
    "error",
)
EPOCH = of("epoch", "loss", "terms", "score")


class Nesting(HTMLParser):
    """Fails where a tag is not closed by its own end."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def checked(result: Any, evidence: Any) -> dict[str, list[dict[str, Any]]]:
    """Description -> rows of every chart of the page."""
    page = render(result, evidence)
    page.encode("utf-8")
    text = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)  # the libraries, which are the same on every page
    assert "\x00" not in text
    Nesting(text)
    found = re.search(r'id="kdsearch-charts">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return {spec["description"]: spec["data"]["values"] for spec in json.loads(found[1])["specs"]}


def rows_of(charts: dict[str, list[dict[str, Any]]], words: str) -> list[dict[str, Any]]:
    return next((rows for description, rows in charts.items() if words in description), [])


def finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e100


@settings(deadline=None)
@given(result=RESULTS, evidence=of("candidates", "trials", "objectives", "curves", "ladder", "finals", "weightings"))
def test_any_json_renders(result: dict[str, Any], evidence: dict[str, Any]) -> None:
    checked(result, evidence)


@settings(deadline=None)
@given(
    candidates=st.lists(CANDIDATE, max_size=6),
    trials=st.lists(TRIAL | of("objectives", values=of("accuracy", "latency_ms")), max_size=6),
    curve=st.lists(EPOCH, max_size=4),
    ladder=st.lists(of("name", "accuracy", "interval", "bytes", "params", "macs", "latency_ms"), max_size=4),
    finals=st.lists(of("architecture", "scores", "accuracy"), max_size=4),
)
def test_what_has_a_value_is_drawn_and_nothing_else(
    candidates: list[Any], trials: list[Any], curve: list[Any], ladder: list[Any], finals: list[Any]
) -> None:
    evidence = {
        "candidates": candidates,
        "trials": trials,
        "objectives": {"accuracy": "max"},
        "curves": {"student": curve},
        "ladder": ladder,
        "finals": finals,
    }
    charts = checked({}, evidence)
    scored = [
        each for each in candidates if finite(each.get("score")) and finite(each.get("params")) and each["params"] > 0
    ]
    if any(finite(each.get("params")) and each["params"] > 0 for each in candidates):
        drawn = rows_of(charts, "candidates, ")
        assert sum(row["x"] in [each["params"] for each in scored] for row in drawn) >= len(scored)
    assert len(rows_of(charts, "trials in order")) == len(trials)
    assert len(rows_of(charts, "training loss by epoch")) == sum(finite(each.get("loss")) for each in curve)
    assert all(finite(row["y"]) for rows in charts.values() for row in rows if row.get("y") is not None)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0, -3e-9, 1e9])
@pytest.mark.parametrize("n", [1, 5])
def test_equal_values_and_single_points(n: int, value: float) -> None:
    trial = {"number": 0, "state": "complete", "objectives": {"loss": value}, "params": 10, "feasible": True}
    evidence = {
        "candidates": [{"architecture": "a", "params": 10, "score": value, "kept": True}] * n,
        "trials": [trial] * n,
        "objectives": {"loss": "min"},
        "curves": {"student": [{"epoch": 1, "loss": value, "score": value}] * n},
        "finals": [
            {"architecture": f"a{at}", "scores": {"nwot": value}, "params": 10, "accuracy": value} for at in range(n)
        ],
    }
    charts = checked({}, evidence)
    assert len(rows_of(charts, "candidates, ")) == len(rows_of(charts, "trials in order")) == n
    assert len(rows_of(charts, "training loss by epoch")) == n
    assert sum("nwot against" in description for description in charts) == (n >= 5), "no panel for a few networks"


@pytest.mark.parametrize(
    ("share", "domain"), [(0.0, [0, 0.05]), (1.0, [0.95, 1]), (0.5, [0.475, 0.525]), (1.5, [1.425, 1.575])]
)
def test_an_axis_of_shares_ends_where_shares_do(share: float, domain: list[float]) -> None:
    assert axis("x", "x", [share, share], share=True)["scale"]["domain"] == pytest.approx(domain)


def test_the_axis_of_one_trial_has_no_other_trials() -> None:
    low, high = axis("x", "trial", [0.0])["scale"]["domain"]
    assert -1 < low < 0 < high < 1


def test_every_objective_has_a_panel(evidence: dict[str, Any], result: dict[str, Any]) -> None:
    for trial in evidence["trials"]:
        if trial["objectives"]:
            trial["objectives"]["latency_ms"] = trial["latency_ms"]
    evidence["objectives"]["latency_ms"] = "min"
    specs = figures(result, evidence)["history"].panels
    assert [spec["title"] for spec in specs] == ["accuracy, higher is better", "latency (ms), lower is better"]


def stopped(*curve: list[Any]) -> dict[str, Any]:
    return {"number": 1, "state": "pruned", "objectives": {}, "params": 20, "curve": list(curve), "feasible": True}


def test_a_stopped_trial_keeps_its_curve_and_stands_where_it_stopped() -> None:
    evidence = {
        "trials": [
            {
                "number": 0,
                "state": "complete",
                "objectives": {"loss": 0.2},
                "params": 10,
                "curve": [[0.3, {"loss": 0.9}], [1.0, {"loss": 0.2}]],
            },
            stopped([0.1, {"loss": 1.5}], [0.3, {"loss": 1.1}]),
        ],
        "objectives": {"loss": "min"},
    }
    charts = checked({}, evidence)
    assert [row["y"] for row in rows_of(charts, "trials in order")] == [0.2, 1.1]
    looks = rows_of(charts, "when they were looked at")
    assert [(row["x"], row["y"]) for row in looks if row["trial"] == "1"] == [(0.1, 1.5), (0.3, 1.1)]
    assert {row["kind"] for row in looks} == {"complete", "stopped early"}
    looks = {"accuracy": -0.6, "latency_ms": 4.0}
    higher = {"trials": [stopped([0.3, looks])], "objectives": [["accuracy", "max"], ["latency_ms", "min"]]}
    assert [row["y"] for row in rows_of(checked({}, higher), "trials in order")] == [0.6], (
        "losses of a higher-is-better"
    )


def test_what_the_trials_begin_with_is_said(result: dict[str, Any], evidence: dict[str, Any]) -> None:
    said = "Trial 0 has the best of 1,024 loss weightings"
    assert said not in render(result, evidence)
    assert said in render(result, {**evidence, "weightings": 1024})


def strokes(runs: list[str]) -> list[dict[str, tuple[str, tuple[int, ...]]]]:
    """Run -> its line's colour and dashes, of each panel."""
    curve = [{"epoch": 1, "loss": 2.0, "score": 0.5}, {"epoch": 2, "loss": 1.0, "score": 0.6}]
    found = []
    for spec in curves_figure({}, {"curves": dict.fromkeys(runs, curve)}).panels:
        line, point = (layer["encoding"] for layer in spec["layer"])
        colour, dash = line["stroke"]["scale"], line["strokeDash"]["scale"]
        assert point["fill"]["scale"] == colour
        assert colour["domain"] == dash["domain"]
        pairs = zip(colour["range"], map(tuple, dash["range"]), strict=True)
        found.append(dict(zip(colour["domain"], pairs, strict=True)))
    return found


def test_no_two_runs_are_drawn_alike_and_the_main_ones_always_as_they_are() -> None:
    main = ["student", "without a teacher", "with every label", "no search", "teacher"]
    beside = ["compare-largest", "compare-random-0", "compare-random-1", "compare-winner"]
    losses, scores = strokes(["as onnx-int4", *beside, "recovery", *main])
    assert losses == scores
    assert len(set(losses.values())) == len(losses) == 11
    assert len({losses[name][0] for name in main}) == 5
    assert {losses[name] for name in main} == {(losses[name][0], (1, 0)) for name in main}, "solid"
    assert {losses[name][0] for name in beside} == {PALETTE["grey"]}
    assert list(losses)[:5] == main
    alone = strokes(["teacher", "student"])[0]
    assert alone == {name: losses[name] for name in ("student", "teacher")}, "whoever else is there"
    assert {strokes(["recovery"])[0]["recovery"][1], strokes(["a", "b"])[0]["b"][1]} == {(1, 0)}, (
        "colours that are free"
    )


def test_curves_that_are_judged_on_different_samples_say_on_which() -> None:
    curve = [{"epoch": 1, "loss": 2.0, "score": 0.5}]
    mixed, known = "270 samples, the teacher's class where a label is hidden", "52 labelled samples"
    on = {"teacher": known, "compare-winner": mixed, "student": mixed, "without a teacher": known}
    evidence = {"curves": dict.fromkeys(on, curve), "judged_on": on}
    (note,) = curves_figure({}, evidence).notes
    assert f"{mixed} (student, compare-winner)" in note
    assert f"{known} (without a teacher, teacher)" in note
    assert curves_figure({}, {**evidence, "judged_on": dict.fromkeys(on, known)}).notes == []


def test_bytes_of_what_has_no_file_are_called_those_of_its_weights(evidence: dict[str, Any]) -> None:
    def titles() -> list[str]:
        return [
            panel["encoding"]["x"]["title"] for panel in ladder_figure({}, evidence).panels if "x" in panel["encoding"]
        ]

    assert titles() == ["bytes of the file", "latency, one sample (ms)"]
    assert "weights in fp32" not in ladder_figure({}, evidence).says
    evidence["ladder"][0]["weights"] = True
    assert titles() == ["bytes of the file, or of weights in fp32", "latency, one sample (ms)"]
    assert "What has no file stands with the bytes of its weights in fp32." in ladder_figure({}, evidence).says


def test_a_final_without_architecture_borrows_no_parameters() -> None:
    finals = [{"scores": {"nwot": float(n)}, "accuracy": n / 10} for n in range(6)]
    panels = proxy_figure({}, {"candidates": [{"params": 10}], "finals": finals}).panels
    assert len(panels) == 1


def test_nan_becomes_null_in_the_json(result: dict[str, Any]) -> None:
    result["metrics"]["nll"] = math.nan
    found = re.search(r'id="kdsearch-result">(.*?)</script>', render(result, {}), re.DOTALL)
    assert found is not None
    assert json.loads(found[1])["metrics"]["nll"] is None


def test_verdict_is_on_the_file_that_ships(result: dict[str, Any]) -> None:
    """Its accuracy, size and latency, and the parameters of the pruned network."""
    result["student"]["accuracy"] = 0.5  # before pruning and quantisation
    result["pruned"] = {"params": 52_632, "macs": 3_000_000, "accuracy": 0.6}
    said = verdict(result)
    assert said.startswith("The file to ship is onnx-int8: accuracy 97.05 %, 98.3 kB, 0.131 ms a sample.")
    assert "1.37 points below the teacher, 5.66 points above the same network trained without a teacher and" in said
    assert "pruned, has 52,632 parameters, 20 times fewer than the teacher." in said
    page = header(result)
    assert "<dt>Accuracy</dt><dd>97.05 %<small>teacher 98.42 %</small>" in page
    assert "<dt>Parameters</dt><dd>52.6 k<" in page
    result["teacher"]["latency_ms"] = {"median": 1.31}
    assert "20 times fewer than the teacher, and answers 10 times faster." in verdict(result)
    assert "<dt>Latency</dt><dd>0.131 ms<small>teacher 1.31 ms</small>" in header(result)


def test_of_several_teachers_the_one_that_is_compared_with_is_named(result: dict[str, Any]) -> None:
    """The first one of the study, in whatever order a file has them."""
    one = {**result["teacher"], "latency_ms": {"median": 1.31}}
    result["teacher"] = {**one, "all": {"another": {**one, "accuracy": 0.5}, "main": one}}
    assert "1.37 points below teacher main," in verdict(result)
    assert "fewer than teacher main, and answers 10 times faster." in verdict(result)
    assert "against teacher main" in text_of(tables.files(result))


def test_a_teacher_s_time_in_torch_is_called_that_beside_a_file_s(
    result: dict[str, Any], evidence: dict[str, Any]
) -> None:
    result["teacher"] |= {"latency_ms": {"median": 1.31}, "latency_in": "onnxruntime"}
    assert "in torch" not in verdict(result) + header(result) + ladder_figure(result, evidence).says
    result["teacher"]["latency_in"] = "torch"
    assert "fewer than the teacher, and answers 10 times faster than the teacher in torch." in verdict(result)
    assert "<small>teacher 1.31 ms in torch</small>" in header(result)
    assert "against the teacher in torch" in text_of(tables.files(result))
    assert "The teacher ran in torch." in ladder_figure(result, evidence).says


def test_verdict_does_not_flatter(result: dict[str, Any]) -> None:
    result["baseline"]["accuracy"] = 0.98
    assert "0.95 points below the same network trained without a teacher" in verdict(result)
    result["recommended"] = None
    result["student"]["accuracy"] = None
    assert "nothing was measured" in verdict(result)
    assert verdict(result).endswith("No file is recommended.")


def test_a_control_that_is_the_baseline_is_said_once(result: dict[str, Any]) -> None:
    """Where no label is hidden, the control with every label is the baseline."""
    assert "same network with every label" in tables.networks(result)
    assert "trained on every label" in verdict(result)
    result["all_labels"] = {**result["baseline"], "same_as": "baseline"}
    assert "every label" not in tables.networks(result) + verdict(result)
    assert tables.networks(result).count("same network without a teacher") == 1


def test_every_note_is_said_once(result: dict[str, Any]) -> None:
    result["notes"] += ["onnx-int4 is slower than fp32 on this machine (0.298 ms a sample).", result["notes"][0]]
    page = render(result, {})
    text = page[: page.index('id="kdsearch-result"')]
    assert text.count("Selection saw 36 labels") == text.count("is slower than fp32") == 1
    assert text.count("smallest file that is no slower") == 1
    assert "accuracy fell by 0.031" in page


def test_a_refusal_says_what_can_be_done_about_it(result: dict[str, Any]) -> None:
    result["refused"].append({"format": "onnx-int4", "reason": "is <off>", "fix": "Loosen the bound in `export`."})
    shown = text_of(tables.refused(result))
    assert shown.endswith("on the validation split onnx-int4 is &lt;off&gt; Loosen the bound in `export`.")


def test_a_warning_stands_before_the_verdict(result: dict[str, Any]) -> None:
    result["warnings"] = ["Teacher <main> is hardly better than chance."]
    page = render(result, {})
    text = page[: page.index('id="kdsearch-result"')]
    assert text.index("Teacher &lt;main&gt; is hardly better than chance.") < text.index('class="verdict"')


def test_a_broken_constraint_is_said(result: dict[str, Any]) -> None:
    page = render(result, {})
    assert 'data-l="reached">3,900,000</td>' in page or ">3,900,000</td>" in page
    assert page.count('<span class="no">broken</span>') == 1


def lossy(value: float, **more: Any) -> dict[str, Any]:
    return {"accuracy": None, "quality": {"metric": "nll", "value": value, "direction": "min", "unit": "nats", **more}}


def test_a_study_of_another_objective_never_speaks_of_accuracy() -> None:
    """Every sentence, tile, table and axis names the objective, its unit, and which way is better."""
    result = make_result()
    result |= {
        "teacher": {"params": 1_000_000, **lossy(0.25)},
        "baseline": lossy(0.41),
        "all_labels": None,
        "metrics": {"nll": 0.3},
    }
    result["student"] |= lossy(0.31)
    result["exports"] = [{**each, **lossy(0.3, interval=[0.28, 0.33], n=230)} for each in result["exports"]]
    result["compare"] = [{"name": "a", "params": 5, **lossy(0.5)}, {"name": "b", "params": 6, **lossy(0.4)}]
    result["refused"] = []
    evidence = make_evidence(n=30, trials=12)
    evidence["objectives"] = {"nll": "min"}
    for trial in evidence["trials"]:
        trial["objectives"] = dict(zip(["nll"], trial["objectives"].values(), strict=False))
    evidence["finals"] = [{**final, **lossy(1 - final["accuracy"])} for final in evidence["finals"]] * 2
    evidence["ladder"] = [{**rung, **lossy(0.3), "interval": [0.28, 0.33]} for rung in evidence["ladder"]]
    page = re.sub(r"<script>.*?</script>", "", render(result, evidence), flags=re.DOTALL)
    text = page[: page.index('id="kdsearch-result"')] + page[page.index('id="kdsearch-charts"') :]
    assert "accuracy" not in text.lower()
    said = verdict(result)
    assert "onnx-int8: nll 0.3000 nats" in said
    assert "0.0500 nats worse than the teacher and 0.1100 nats better than the same network" in said
    assert "n = 230" in header(result)
    assert "0.2800 to 0.3300 nats" in text
    assert "nll (nats), lower is better" in text
    rows = tables.comparison(result)
    assert rows.index(">b<") < rows.index(">a<"), "the lowest loss first"


def test_times_stand_in_the_order_of_the_stages(result: dict[str, Any]) -> None:
    result["seconds"] = dict.fromkeys(sorted(("report", *result["seconds"])), 1.0)
    order = re.findall(r'<th scope="row">(\w+)</th>', tables.time(result))
    assert order == ["prepare", "search", "refine", "distill", "compress", "export", "report"]
    assert "<b>all</b>" in tables.time(result)
    del result["seconds"]["report"]
    assert "<b>all before this page</b>" in tables.time(result)


@pytest.mark.parametrize(
    ("bound", "said"), [(0.999, "bound 99.9 %"), (0.83, "bound 83 %"), (0.12345, "bound 12.345 %")]
)
def test_a_bound_on_decisions_is_said_in_full(bound: float, said: str, result: dict[str, Any]) -> None:
    result["exports"][1]["bounds"] = {"min_agreement": bound}
    assert said in text_of(tables.files(result))


def test_files_and_cards_are_linked_and_nothing_outside(result: dict[str, Any]) -> None:
    result["exports"][0]["path"] = "export/my model#1.onnx"
    result["exports"][1]["path"] = "../../etc/passwd.onnx"
    links = re.findall(r'href="([^"]*)"', tables.files(result))
    assert links[:2] == ["../export/my%20model%231.onnx", "../export/my%20model%231.json"]
    assert len(links) == 4
    assert not [each for each in links if "etc" in each]


def test_the_settings_of_a_fast_session_are_said_with_the_latency_they_give(result: dict[str, Any]) -> None:
    result["exports"][2] |= {
        "latency_ms": {"median": 2.227, "min": 2.1},
        "latency_tuned_ms": {"median": 0.775, "min": 0.77},
        "session_options": {"session.disable_quant_qdq": "1"},
    }
    name = "<span class=nb>session.</span><wbr><span class=nb>disable_quant_qdq=1</span>"
    assert f"2.23<small class=wide>least 2.10; 0.775 with {name}</small>" in tables.files(result)


def text_of(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def test_samples_without_classes_are_counted_by_their_labels(result: dict[str, Any]) -> None:
    """Of a segmentation, say, the classes are none of samples."""
    result["data"]["counts"] = {
        "test": {"labeled": 32, "unlabeled": 0},
        "train": {"labeled": 38, "unlabeled": 70},
        "val": {"labeled": 0, "unlabeled": 20},
    }
    result["data"]["classes"] = ["ground", "disc"]
    shown = text_of(tables.data(result))
    assert "samples train val test with a label 38 0 32 without a label 70 20 0 all 108 20 32" in shown
    assert "ground" not in shown
    assert "class" not in shown
    result["data"]["counts"] = {"train": {"labeled": 108}, "test": {"labeled": 32}}
    assert "Samples by split samples train test with a label 108 32" in text_of(tables.data(result))


def test_samples_of_classes_are_counted_by_them(result: dict[str, Any]) -> None:
    result["data"]["counts"] = {"val": {"cat": 3}, "train": {"cat": 1, "dog": 2, "unlabeled": 5}}
    result["data"]["classes"] = ["dog", "cat", "owl"]
    shown = text_of(tables.data(result))
    assert "class train val dog 2 0 cat 1 3 owl 0 0 without a label 5 0 all 8 3" in shown


def test_several_teachers_and_several_roles_have_a_row_each(result: dict[str, Any]) -> None:
    quality = {"metric": "miou", "direction": "max", "unit": "share", "n": 9}
    each = {
        name: {"params": n, "macs": n, "architecture": name, "quality": {**quality, "value": n / 1000}}
        for name, n in (("seeing", 901), ("reading", 702))
    }
    result["teacher"] = {**each["seeing"], "all": each}
    roles = {"left": {**each["seeing"], "params": 31}, "right": {**each["reading"], "params": 32}}
    result["student"] |= {"roles": roles}
    result["pruned"] = {
        "params": 33,
        "roles": {"right": {"params": 21, "macs": 2, "quality": {**quality, "value": 0.5}}},
    }
    result["baseline"] = result["all_labels"] = None
    shown = text_of(tables.networks(result))
    for said in ("teacher seeing 90.10 %", "teacher reading 70.20 %", "left, as distilled 90.10 % 31"):
        assert said in shown
    assert "right, as distilled 70.20 % 32" in shown
    assert "left, pruned" not in shown
    assert "right, pruned and recovered 50.00 % 21" in shown


def test_what_is_not_measured_has_no_column_and_no_dash(result: dict[str, Any]) -> None:
    assert "same decisions as torch" in tables.files(result)
    for each in result["exports"]:
        each["top1_agreement"] = None
    assert "same decisions as torch" not in tables.files(result)
    result["teacher"] |= {"accuracy": None}
    assert "teacher \u2013" not in text_of(header(result))


def test_of_several_roles_the_recommended_file_is_matched_by_its_role_too(result: dict[str, Any]) -> None:
    """Both have an INT8 file: the one that is recommended is not the first one."""
    int8 = result["exports"][1]
    result["student"]["roles"] = {"left": {"params": 11}, "right": {"params": 22}}
    result["exports"] = [{**int8, "role": "left", "accuracy": 0.5}, {**int8, "role": "right", "accuracy": 0.75}]
    result["recommended"] = {"format": "onnx-int8", "role": "right", "why": "better"}
    said = verdict(result)
    assert said.startswith("The file to ship is right onnx-int8: accuracy 75.00 %")
    assert "has 22 parameters" in said
    roles = {role: {"format": "onnx-int8", "role": role, "why": "good"} for role in ("left", "right")}
    both = verdict({**result, "recommended": {**result["recommended"], "roles": roles}})
    assert both.startswith(
        "The files to ship are left onnx-int8 and right onnx-int8. right onnx-int8: accuracy 75.00 %"
    )
    assert "onnx-int8 recommended" not in text_of(tables.files(result)).replace("right onnx-int8 recommended", "")
    assert '<tr class="best"><th scope="row">right onnx-int8' in tables.files(result)
    bars = weights_figure(result, {}).panels[0]["data"]["values"]
    shares = {name: sum(row["share"] for row in bars if row["file"] == name) for name in {row["file"] for row in bars}}
    assert shares == pytest.approx({"left onnx-int8": 1.0, "right onnx-int8": 1.0})


PIXEL = "data:image/png;base64,iVBORw0KGgo="


def test_pictures_stand_in_rows_and_nothing_else_is_embedded() -> None:
    row = [Picture("input", PIXEL), Picture("truth", PIXEL, "3 classes"), Picture("<student>", PIXEL, '"90" %')]
    bad = [
        Picture("input", 'https://there/"><script>'),
        Picture("truth", "data:text/html;base64,AAAA"),
        Picture("x", 7),
    ]  # type: ignore[arg-type]
    shown = framed(Figure("masks", "Masks", "Some.", pictures=[row, row]), 3, 0)
    assert [text_of(each) for each in shown.split("<tr>")[1:3]] == [
        "input truth &lt;student&gt;",
        "3 classes &quot;90&quot; %",
    ]
    assert shown.count(f'<img src="{PIXEL}"') == 6
    assert 'alt="&lt;student&gt;, &quot;90&quot; %"' in shown
    assert "Nothing to show" not in shown
    unlike = framed(Figure("masks", "Masks", "Some.", pictures=[row, bad]), 3, 0)
    assert "<thead>" not in unlike, "rows differ, so that each picture says what it is"
    assert "<small>truth, 3 classes</small>" in unlike
    assert "script" not in unlike
    assert "text/html" not in unlike
    assert unlike.count("<img") == 3


def test_the_pruned_network_has_a_row(result: dict[str, Any]) -> None:
    result["pruned"] = {"params": 52_632, "macs": 3_000_001, "accuracy": 0.9502}
    found = tables.networks(result)
    assert "student, pruned and recovered" in found
    for said in ("52,632", "3,000,001", "95.02 %"):
        assert said in found
    assert found.count("d1.2.2-w16.24.32") == tables.networks({**result, "pruned": None}).count("d1.2.2-w16.24.32")
    cut = {**result, "pruned": {**result["pruned"], "architecture": "what is left"}}
    assert "what is left" in tables.networks(cut)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"block": "basic", "depths": [1, 1, 1], "widths": [12, 24, 16]}, "basic block, depths 1-1-1, widths 12-24-16"),
        ({"heads": 4, "pre_norm": True, "bias": False}, "heads 4, pre norm, no bias"),
        ({"dropout": 0.0, "layers": 0, "depths": [0, 2]}, "depths 0-2, no dropout, no layers"),
        (
            {"causal": True, "depth": 2, "kind": "gru", "norm": "none", "width": 24},
            "gru kind, depth 2, width 24, causal, no norm",
        ),
        ({"a": {"k": 3}, "b": {"k": 5}}, "a (k 3), b (k 5)"),
        ({"stages": [{"op": "conv", "k": 3}, {"op": "skip"}]}, "stages (conv op, k 3; skip op)"),
    ],
)
def test_architectures_are_said_in_words(spec: dict[str, Any], words: str) -> None:
    assert architecture(json.dumps(spec)) == words
    assert architecture("|skip~0|+|conv~1|") == "|skip~0|+|conv~1|"
    assert architecture('{"a": [') == '{"a": ['


def test_long_names_may_go_on_in_the_next_line() -> None:
    """Else the last columns of a table of code stand outside of the page."""
    names = ["concurrent.futures._base.Future.__init__(self, x<y)", "split_header_words_of_a_request", "a.b", "1,234.5"]
    shown = simple(["name", "n"], [[name, 1] for name in names])
    cells = re.findall(r"<th scope=\"row\">(.*?)</th>", shown)
    assert [html.unescape(re.sub("<wbr>", "", cell)) for cell in cells] == names
    assert cells[0].split("<wbr>") == ["concurrent.", "futures.", "_base.", "Future.", "__init__(", "self, x&lt;y)"]
    assert cells[1].split("<wbr>") == ["split_header_", "words_", "of_", "a_", "request"]
    assert cells[2:] == names[2:]


def test_what_a_recipe_does_not_set_is_not_listed(result: dict[str, Any]) -> None:
    result["student"]["recipe"]["train"]["schedule"] = {"kind": "cosine", "power": None, "warmup": 0.0}
    result["provenance"] |= {
        "plugins": {"a-dist:one": "1.2", "a-dist:two": "1.2", "b-dist:three": "0.1"},
        "allow_code": [],
    }
    found = text_of(tables.recipe(result))
    assert "train.schedule.kind cosine" in found
    assert "train.schedule.warmup 0" in found
    assert "power" not in found
    found = text_of(tables.provenance(result))
    assert "plugins.a-dist 1.2 one, two" in found
    assert "plugins.b-dist 0.1 three" in found
    assert "allow_code" not in found


def test_compression_speaks_of_the_objective(result: dict[str, Any]) -> None:
    """In its unit, whatever its name, and by the name that people call it."""
    step = {"use": "channels", "params": 5, "macs": 6, "zeros": 0.0}
    quality = {"metric": "ndcg", "title": "nDCG@10", "unit": "share", "direction": "max", "value": 0.71}
    result["pruned"] = {"params": 5, "macs": 6, "quality": quality}
    result["pruned"]["steps"] = [{**step, "validation": {"before": 0.72, "cut": 0.5, "recovered": 0.71}}]
    found = text_of(tables.steps(result))
    assert "Compression: nDCG@10, on validation" in found
    assert "72.00 % 50.00 % 71.00 %" in found


def test_a_tasks_figures_stand_on_the_page(result: dict[str, Any]) -> None:
    spec = {"description": "who is taken for whom", "data": {"values": [{"a": "<b>"}]}, "mark": "rect"}
    shown = Figure(
        "mixups", "Mixed <up>", "Rows are truth.", [spec], [Table("of 9", ["class", "recall"], [["cat", 0.5]])]
    )
    page = render(result, {"figures": [json.loads(json.dumps(shown.as_json()))]})
    assert '<figure id="fig-mixups">' in page
    assert "Mixed &lt;up&gt;" in page
    assert "who is taken for whom" in page
    assert "Answers on the test split" in page
    alone = Figure("t", "A table", "Only that.", tables=[Table("of 9", ["class", "recall"], [["dog", None]])])
    assert "<td" in render(result, {"figures": [alone.as_json()]}).partition('id="fig-t"')[2].partition("</figure>")[0]


def test_the_same_input_gives_the_same_page(result: dict[str, Any], evidence: dict[str, Any]) -> None:
    assert render(result, evidence) == render(result, evidence)


def test_proxies_are_judged_beside_parameter_count() -> None:
    finals = [
        {"architecture": str(n), "scores": {"good": n, "bad": -n}, "params": p, "accuracy": 0.5 + n / 100}
        for n, p in enumerate((10, 30, 20, 50, 40))
    ]
    figure = proxy_figure({}, {"finals": finals})
    assert figure.notes[0].startswith("Above parameter count (τ = +0.60): good (+1.00). Over 5 networks")
    assert [spec["title"] for spec in figure.panels] == [
        "accuracy; τ = +1.00, n = 5",
        "accuracy; τ = -1.00, n = 5",
        "accuracy; τ = +0.60, n = 5",
    ]
    lower = [{**each, "quality": {"metric": "loss", "value": each["accuracy"], "direction": "min"}} for each in finals]
    assert proxy_figure({}, {"finals": lower}).panels[1]["title"] == "loss; τ = +1.00, n = 5", "a low loss is good"
    few = proxy_figure({}, {"finals": finals[:3]})
    assert (few.panels, few.notes) == ((), ())
    assert few.missing == "Different networks that were tried to the end: 3, too few to judge a proxy, which takes 5."
    for final in finals:
        del final["scores"]["good"]
    assert (
        proxy_figure({}, {"finals": finals})
        .notes[0]
        .startswith("No proxy ranked these networks better than their parameter count (τ = +0.60).")
    )


def test_a_candidate_s_score_is_the_better_the_higher_whoever_was_kept() -> None:
    kept = {"architecture": "small", "params": 10, "score": 0.2, "kept": True, "feasible": True}
    other = {**kept, "architecture": "large", "params": 20, "score": 0.8, "kept": False}
    figure = front_figure({}, {"candidates": [other, kept]})
    assert figure.panels[0]["title"] == "score, higher is better"
    assert [row[0] for row in figure.tables[0].rows] == ["small", "large"], "kept ones first in the table"
    assert [row.get("front") for row in figure.panels[0]["data"]["values"]] == [True, True]
