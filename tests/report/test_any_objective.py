"""What the page says of tasks whose objective is no accuracy: names, units, directions, digits, files of several graphs."""

from __future__ import annotations

import re

import pytest
from conftest import make_evidence, make_result

from kdsearch.report.curves_figure import curves_figure
from kdsearch.report.frames import candidate_rows, trial_rows
from kdsearch.report.front_figure import front_figure
from kdsearch.report.history_figure import history_figure
from kdsearch.report.ladder_figure import ladder_figure
from kdsearch.report.quality import Quality, quality_of
from kdsearch.report.summary import tiles, warnings
from kdsearch.report.tables import data, files, metrics
from kdsearch.report.words import architecture

RMSE = {"metric": "rmse", "title": "RMSE", "value": 3.4, "direction": "min", "unit": "", "interval": [2.2175, 4.70533]}


def text(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html)).replace("&nbsp;", "").strip()


def test_four_digits_and_no_more() -> None:
    own, other = quality_of({"quality": RMSE}), quality_of({"quality": {**RMSE, "value": 3.013}})
    assert (own.text, own.range) == ("3.400", "2.217 to 4.705")
    assert own.against(other, "the teacher") == "0.387 worse than the teacher"
    assert Quality("perplexity", 12.504, up=False).against(Quality("perplexity", 12.391), "it") == "0.11 worse than it"
    assert (
        Quality("nll", 0.5, up=False, unit="nats").against(Quality("nll", 0.50001), "it") == "1e-05 nats better than it"
    )
    assert Quality("mse", 123456.7).text == "123,457"


def test_a_metric_is_called_what_people_call_it() -> None:
    quality = quality_of({"quality": RMSE})
    assert (quality.metric, quality.name, quality.label) == ("rmse", "RMSE", "RMSE, lower is better")
    shown = text(tiles({"student": {"quality": RMSE}}))
    assert shown.startswith("RMSE 3.400")
    assert text(tiles({"student": {"accuracy": 0.5}})).startswith("Accuracy 50.00 %")
    for title, said in (
        ("exact match", "Exact match"),
        ("macro F1", "Macro F1"),
        ("nDCG@10", "nDCG@10"),
        ("a_b", "a_b"),
    ):
        assert text(tiles({"student": {"quality": {**RMSE, "title": title}}})).startswith(f"{said} 3.400")


def test_other_metrics_have_their_units_names_and_directions() -> None:
    result = {
        "student": {"quality": RMSE},
        "metrics": {
            "rmse": 3.4,
            "map": 0.40296,
            "mrr": 0.021233,
            "nll": 0.25,
            "n": 78.0,
            "tokens": 291.0,
            "own": 0.329861,
        },
        "measures": {
            "rmse": {"title": "RMSE", "unit": "", "direction": "min"},
            "map": {"title": "mAP", "unit": "share", "direction": "max"},
            "mrr": {"title": "MRR", "unit": "share", "direction": "max"},
            "nll": {"title": "", "unit": "nats", "direction": "min"},
        },
    }
    shown = text(metrics(result))
    for each in ("mAP 40.30 %", "MRR 2.12 %", "nll (nats), lower is better 0.2500 nats", "tokens 291", "own 0.3299"):
        assert each in shown
    assert "RMSE" not in shown


def test_samples_without_labels_are_of_no_class() -> None:
    facts = {
        "source": "s",
        "labeled": 600,
        "unlabeled": 0,
        "counts": {"train": {"samples": 600}, "test": {"samples": 58}},
    }
    shown = text(data({"data": facts}))
    assert "class" not in shown
    assert "label" not in shown
    assert "Samples by split" in shown
    assert text(
        data({"data": {**facts, "counts": {"train": {"samples": 3, "other": 4}}, "classes": ["samples", "other"]}})
    ).count("class")


def test_every_graphs_file_is_linked() -> None:
    result = make_result()
    result["exports"][0]["paths"] = ["export/s-encoder.onnx", "export/s-decoder.onnx"]
    assert re.findall(r'href="\.\./(export/s-\w+\.\w+)"', files(result)) == [
        *("export/s-encoder.onnx", "export/s-encoder.json", "export/s-decoder.onnx", "export/s-decoder.json"),
    ]


def test_curves_say_what_is_measured_and_which_way_is_better() -> None:
    evidence = {**make_evidence(), "scored": {"metric": "rmse", "title": "RMSE", "unit": "", "direction": "min"}}
    _, score = curves_figure({}, evidence).panels
    assert score["title"] == "validation RMSE, lower is better"
    assert score["encoding"]["y"]["axis"]["format"] != ".3~%"
    assert "RMSE" in curves_figure({}, evidence).says


def test_controls_stand_on_the_ladder_in_grey() -> None:
    evidence = make_evidence()
    evidence["ladder"].append({"name": "without a teacher", "accuracy": 0.9, "control": True})
    found = ladder_figure({}, evidence)
    assert [row["control"] for row in found.panels[0]["data"]["values"]].count(True) == 1
    assert "in grey what was trained to compare with" in found.says
    assert "in grey" not in ladder_figure({}, make_evidence()).says
    assert not [row for row in found.panels[1]["data"]["values"] if row["control"]], "it has no file"


@pytest.mark.parametrize(
    ("spec", "words"),
    [('{"norm":"none","width":8}', "width 8, no norm"), ('{"norm":"batch"}', "batch norm")],
)
def test_none_of_a_thing_is_no_such_thing(spec: str, words: str) -> None:
    assert architecture(spec) == words


def test_code_in_a_sentence_is_code() -> None:
    html = warnings({"warnings": ["Check `normalize` and <b> `<i>`."]})
    assert "<code>normalize</code> and &lt;b&gt; `&lt;i&gt;`" in html or "<code>normalize</code>" in html
    assert "<b>" not in html
    assert "<i>" not in html


def test_trials_are_read_as_their_metric_says() -> None:
    evidence = {
        "objectives": {"ndcg": "max", "params": "min"},
        "measures": {"ndcg": {"title": "nDCG@10", "unit": "share", "direction": "max"}},
        "trials": [
            {"number": 0, "state": "complete", "objectives": {"ndcg": 0.25, "params": 100}, "params": 100},
            {
                "number": 1,
                "state": "pruned",
                "objectives": {},
                "params": 120,
                "curve": [[0.3, {"ndcg": -0.125, "params": 120}]],
            },
        ],
    }
    front, history = front_figure({}, evidence), history_figure({}, evidence)
    assert front.panels[-1]["title"] == "nDCG@10, higher is better"
    assert front.panels[-1]["layer"][0]["encoding"]["y"]["axis"]["format"] == ".3~%"
    assert [panel["title"] for panel in history.panels[:2]] == [
        "nDCG@10, higher is better",
        "parameters, lower is better",
    ]
    assert [row["y"] for row in history.panels[1]["data"]["values"]] == [100, 120], "known of a trial that was stopped"
    assert [list(row[2:4]) for row in history.tables[0].rows] == [["25.00 %", "100"], ["12.50 %", "120"]]
    assert history.tables[0].head[2:4] == ["nDCG@10", "parameters"]


def test_a_stopped_trial_stands_at_what_it_had_of_each_objective_in_the_studys_order() -> None:
    whole = {"number": 0, "state": "complete", "params": 10, "objectives": {"accuracy": 0.5, "params": 10, "nll": 1.5}}
    whole["curve"] = [[at, {"accuracy": -0.25 - at / 4, "params": 10, "nll": 2.0}] for at in (0.5, 1.0)]
    looks = [[0.5, {"accuracy": -0.125, "params": 20, "nll": 2.25}]]
    stopped = {"number": 1, "state": "pruned", "params": 20, "objectives": {}, "curve": looks}
    ways = [["params", "min"], ["nll", "min"], ["accuracy", "max"]]
    evidence = {"objectives": ways, "trials": [whole, stopped]}
    *panels, curves = history_figure({}, evidence).panels
    assert [panel["title"].partition(",")[0] for panel in panels] == ["parameters", "nll", "accuracy"]
    values = [[row["y"] for row in panel["data"]["values"]] for panel in panels]
    assert values == [[10, 20], [1.5, 2.25], [0.5, 0.125]]
    assert curves["title"] == "nll, lower is better", "that of a cost is level"
    assert [row["y"] for row in curves["data"]["values"]] == [2.0, 2.0, 2.25]
    (row,) = [row for row in trial_rows(evidence) if row["state"] == "pruned"]
    assert {name: row[name] for name, _ in ways} == {"params": 20, "nll": 2.25, "accuracy": 0.125}


def test_a_page_of_thousands_of_trials_shows_the_best_and_the_front() -> None:
    """Of 3,000, trial 7 is small and bad, and so on the front; those that were stopped early reached less than any other."""
    whole = [{"number": at, "state": "complete", "params": 100 + at % 7} for at in range(2990)]
    for at, trial in enumerate(whole):
        trial["objectives"] = {"params": trial["params"], "accuracy": 0.1 if at == 7 else 0.5 + at / 10_000}
        trial["curve"] = [[share, {"accuracy": -trial["objectives"]["accuracy"]}] for share in (0.5, 1.0)]
    whole[7]["params"] = whole[7]["objectives"]["params"] = 1
    stopped = [{"number": at, "state": "pruned", "curve": [[0.5, {"accuracy": -0.2}]]} for at in range(2990, 3000)]
    evidence = {"objectives": [["params", "min"], ["accuracy", "max"]], "trials": [*whole, *stopped]}
    front, history = front_figure({}, evidence), history_figure({}, evidence)
    listed = [row[0] for row in front.tables[0].rows]
    assert len(listed) == 200
    assert listed[0] == "7"
    assert set(listed[1:]) >= {str(at) for at in range(2800, 2990)}
    words = "200 of 3000 trials: the best by accuracy and the front; all are in the study's folder"
    assert front.tables[0].caption == words
    assert [row[0] for row in history.tables[0].rows] == [str(at) for at in range(2790, 2990)]
    curves = history.panels[-1]["data"]["values"]
    assert {row["trial"] for row in curves} == {row[0] for row in history.tables[0].rows}
    assert "Curves are of the best 200." in history.says
    assert len(history.panels[0]["data"]["values"]) == 3000


@pytest.mark.parametrize(
    ("cost", "own", "said"),
    [
        ("onnx_bytes", "bytes", "file size (bytes)"),
        ("latency_ms", "latency_ms", "latency (ms)"),
        ("peak_bytes", "peak_bytes", "memory of one call (bytes)"),
        ("params", "params", "parameters"),
    ],
)
def test_a_stopped_trial_has_its_cost_wherever_that_is_an_objective(cost: str, own: str, said: str) -> None:
    """`own`: what its row calls it."""
    whole = {"number": 0, "state": "complete", own: 2000.0, "objectives": {"accuracy": 0.5, cost: 2000.0}}
    stopped = {"number": 1, "state": "pruned", own: 1500.0, "objectives": {}}
    stopped["curve"] = [[0.5, {"accuracy": -0.125, cost: 1500.0}]]
    evidence = {"objectives": [["accuracy", "max"], [cost, "min"]], "trials": [whole, stopped]}
    rows = trial_rows(evidence)
    assert [row[cost] for row in rows] == [2000.0, 1500.0]
    assert (own in rows[0]) == (own == cost), "once, by the objective's name"
    front = front_figure({}, evidence)
    assert [(row["x"], row["y"]) for row in front.panels[0]["data"]["values"]] == [(2000.0, 0.5), (1500.0, 0.125)]
    assert front.panels[0]["layer"][0]["encoding"]["x"]["title"] == said
    assert [row[front.tables[0].head.index(said)] for row in front.tables[0].rows] == ["2,000", "1,500"]
    del stopped[own]  # the row of a folder of before
    assert trial_rows(evidence)[1][cost] == 1500.0, "as when it was looked at"


def test_candidates_of_several_students_have_a_panel_and_marks_of_their_own() -> None:
    """The largest left one beats every right one, and the same network is the student on one side alone."""
    roles = {"left": ((10, 0.7), (20, 0.9)), "right": ((10, 0.2), (20, 0.4))}
    candidates = [
        {"role": role, "architecture": f'{{"width":{n}}}', "params": n, "score": score, "kept": False}
        for role, own in roles.items()
        for n, score in own
    ]
    result = {"student": {"architecture": '{"left":{"width":10},"right":{"width":20}}'}}
    evidence = {"candidates": candidates}
    left, right = front_figure(result, evidence).panels
    assert [left["title"], right["title"]] == [f"score of {role}, higher is better" for role in roles]
    kinds = [{row["x"]: row["kind"] for row in panel["data"]["values"]} for panel in (left, right)]
    assert kinds == [{10: "the student", 20: "scored"}, {10: "scored", 20: "the student"}]
    assert all(row["front"] for panel in (left, right) for row in panel["data"]["values"]), (
        "each role has its own front"
    )
    (table,) = front_figure(result, evidence).tables
    assert table.head[:2] == ["role", "architecture"]
    assert [row[0] for row in table.rows] == ["left", "left", "right", "right"]
    assert [row["role"] for row in candidate_rows(evidence)] == ["left", "left", "right", "right"]
    alone = {"candidates": [{name: value for name, value in candidates[0].items() if name != "role"}]}
    assert "role" not in candidate_rows(alone)[0]
    assert front_figure({}, alone).tables[0].head[0] == "architecture"
    assert front_figure({}, alone).panels[0]["title"] == "score, higher is better"


def test_a_unit_that_is_stated_decides_and_no_name() -> None:
    assert quality_of({"quality": {"metric": "recall_ms", "value": 3.0, "unit": ""}}).text == "3.000"
    assert quality_of({"quality": {"metric": "ndcg", "value": 0.3, "unit": "share"}}).text == "30.00 %"
