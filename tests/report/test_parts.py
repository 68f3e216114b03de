"""Statistics, numbers and the cleaning of plugin HTML."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdsearch.kinds import Table
from kdsearch.report.charts import PALETTE, SERIES
from kdsearch.report.compression_tables import as_quantised
from kdsearch.report.html_table import bare, table
from kdsearch.report.page import asset, themed
from kdsearch.report.plugin_html import clean
from kdsearch.report.quality import Quality
from kdsearch.report.stats import front, tau_noise, wilson
from kdsearch.report.summary import speed
from kdsearch.report.tables import against, figure
from kdsearch.report.values import about, milliseconds, percent, rough, seconds, short, si
from kdsearch.search.agreement import kendall_tau


def test_tau_noise_is_the_spread_of_tau_over_all_orders() -> None:
    taus = [kendall_tau([1, 2, 3, 4, 5], order) for order in itertools.permutations([1, 2, 3, 4, 5])]
    assert tau_noise(5) == pytest.approx(np.std(np.array(taus, dtype=float)), abs=1e-12)


@given(st.integers(1, 5000), st.data())
def test_wilson_holds_the_shares_that_are_within_196_deviations(n: int, data: st.DataObject) -> None:
    """Wilson's two roots p of (p - share)^2 = z^2 p (1 - p) / n."""
    share = data.draw(st.integers(0, n)) / n
    z2 = 1.959963984540054**2
    roots = np.roots([1 + z2 / n, -(2 * share + z2 / n), share**2])
    assert wilson(share, n) == pytest.approx(sorted(np.clip(roots.real, 0, 1)), abs=1e-6)


def test_wilson_refuses_what_is_no_proportion() -> None:
    for share, n in ((1.2, 10), (0.5, 0)):
        with pytest.raises(ValueError, match="share"):
            wilson(share, n)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=15))
def test_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    chosen = front([float(c) for c, _ in points], [float(g) for _, g in points])
    beaten = {
        i for i, (c, g) in enumerate(points) if any(c2 <= c and g2 >= g and (c2, g2) != (c, g) for c2, g2 in points)
    }
    assert not beaten & set(chosen)
    assert {points[i] for i in range(len(points)) if i not in beaten} == {points[i] for i in chosen}
    assert len({points[i] for i in chosen}) == len(chosen)


@pytest.mark.parametrize(
    ("before", "after", "used", "said"),
    [
        (0.02, None, False, "not needed"),
        (0.2, 0.1, True, "used"),
        (0.2, 0.3, False, "no better, not used"),
        (None, None, False, "no file to compare"),  # it could not be opened, or answers no number
        (0.2, None, False, "no file to compare"),  # the one of the trained network
        (None, 0.1, True, "used"),
    ],
)
def test_training_as_quantised_says_what_came_of_it(
    before: float | None, after: float | None, used: bool, said: str
) -> None:
    row = {"format": "onnx-int4", "epochs": 4, "metric": "accuracy", "unit": "share", "allowed": 0.05}
    text = as_quantised({"as_quantised": [{**row, "before": before, "after": after, "used": used}]})
    assert f">{said}<" in text
    assert ">what came of it</th>" in text


def test_training_as_quantised_that_could_round_nothing_is_said() -> None:
    row = {"format": "onnx-int4", "epochs": 0, "metric": "accuracy", "unit": "share", "allowed": 0.05, "before": 0.2}
    assert ">nothing is rounded in training<" in as_quantised({"as_quantised": [{**row, "after": None, "used": False}]})


@pytest.mark.parametrize(
    ("metric", "measure", "cells", "said"),
    [
        ("exact_match", {"title": "exact match", "unit": "share"}, ["2.00 %", "5.00 %", "12.00 %"], "exact match"),
        ("ndcg", {"title": "nDCG@10", "unit": "share"}, ["2.00 %", "5.00 %", "12.00 %"], "nDCG@10"),
        ("nll", {"title": "", "unit": "nats"}, ["0.02000 nats", "0.05000 nats", "0.1200 nats"], "nll"),
        ("recall_ms", {"title": "", "unit": "ms"}, ["0.02000 ms", "0.05000 ms", "0.1200 ms"], "recall_ms"),
    ],
)
def test_training_as_quantised_is_read_as_its_metric_says(
    metric: str, measure: dict[str, str], cells: list[str], said: str
) -> None:
    """By the unit that the row states, whatever the metric's name says."""
    lost = {"before": 0.12, "allowed": 0.05, "after": 0.02, "used": True}
    row = {"format": "onnx-int4", "epochs": 4, "metric": metric, "unit": measure["unit"], **lost}
    text = as_quantised({"as_quantised": [row], "measures": {metric: measure}})
    assert f"what {said} loses on validation" in text
    assert sorted(re.findall(r">([\d.]+ (?:%|[a-z]+))<", text), key=lambda cell: float(cell.split()[0])) == cells


def test_times_are_as_exact_as_they_are_known():
    said = [about(each) for each in (0.4, 40.2, 89, 240, 9000)]
    assert said == ["less than 1 s", "about 40 s", "about 89 s", "about 4 minutes", "about 2.5 hours"]


def test_numbers_as_people_write_them() -> None:
    assert (si(999.7), si(72528), si(4210688, "B"), si(0.131)) == ("1 k", "72.5 k", "4.21 MB", "0.131")
    assert (percent(0.97114), percent(None), percent(math.nan)) == ("97.11 %", "\u2013", "\u2013")
    assert (seconds(59.994), seconds(725), seconds(11222)) == ("59.99 s", "12 min 05 s", "3 h 07 min")
    assert [milliseconds(each) for each in (0.11021, 0.0548, 9.996, 99.96, 1234.5)] == [
        "0.110",
        "0.0548",
        "10.0",
        "100",
        "1,234",
    ]
    assert [rough(each) for each in (9.5367e-07, 0.0, 12.3456, math.nan)] == ["9.54e-07", "0", "12.3", "\u2013"]
    given = (("loss", 0.123456), ("n", 12.0), ("n", 12345.0), ("top1", 0.5))
    assert [figure(*each) for each in given] == ["0.1235", "12", "12,345", "50.00 %"]
    assert short("cifar_resnet-d1.2.3-w16.24.32", 12) == "cifar_…24.32"
    assert len(short("x" * 99, 12)) == 12


@pytest.mark.parametrize(
    ("fragment", "safe"),
    [
        ("<p>a<b>b</p>", "<p>a<b>b</b></p>"),
        ("</section></main><p>x", "<p>x</p>"),
        ("<script>alert(1)</script>y", "y"),
        ("<p onclick=x() class='a mark'>1 &lt; 2</p>", '<p class="a">1 &lt; 2</p>'),
        (
            '<a href="#x">i</a><a href="https://a.example">j</a><a href="javascript:x()">k</a>',
            '<a href="#x">i</a><a>j</a><a>k</a>',
        ),
        (
            '<img src="data:image/png;base64,AA=="><img src="//a.example/x">',
            '<img src="data:image/png;base64,AA=="><img>',
        ),
        ('<img src="data:image/svg+xml;base64,AA==">', "<img>"),
        (
            '<div style="color:red">a</div><div style="background:u\\72l(x)">b</div>',
            '<div style="color:red">a</div><div>b</div>',
        ),
        ("<svg viewBox='0 0 1 1'><path d='M0 0'/></svg>", '<svg viewBox="0 0 1 1"><path d="M0 0"></path></svg>'),
        ("<iframe src=x><p>in</p></iframe>out", "out"),
        ("<!-- c --><p>é \x00</p>", "<p>é \ufffd</p>"),
    ],
)
def test_plugin_html_is_cleaned(fragment: str, safe: str) -> None:
    assert clean(fragment)[0] == safe


@given(st.text(alphabet=st.sampled_from(list("<>/=\"' abiopsrcg&#;!-:()\\")), max_size=60))
def test_cleaning_is_stable_and_never_leaves_a_handler(fragment: str) -> None:
    once, _ = clean(fragment)
    again, removed = clean(once)
    assert removed == []
    assert again == once


def test_what_was_removed_is_named() -> None:
    assert clean('<p onclick="x()"><object></object></p><link rel=x>')[1] == ["onclick", "<object>", "<link>"]


def colours(mode: str) -> dict[str, str]:
    """The style sheet's colours: of the light page, or those with the dark one's in their place."""
    light, dark = re.findall(r":root \{(.*?)\}", asset("page.css"), re.DOTALL)
    return dict(re.findall(r"--(\w+): (#\w+)", light + (dark if mode == "dark" else "")))


def luminance(code: str) -> float:
    """Relative luminance of sRGB (WCAG 2.2)."""
    digits = code[1:] if len(code) == 7 else "".join(2 * each for each in code[1:])
    red, green, blue = (linear(int(digits[at : at + 2], 16) / 255) for at in (0, 2, 4))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def linear(part: float) -> float:
    return part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4


# What red, green and blue light become for eyes without the long or the middle cones, all of it (Machado et al., 2009, table 1).
SIGHT = {
    "whole": np.eye(3),
    "no red": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "no green": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
    ),
}
XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]])


def lab(code: str, sight: str) -> np.ndarray:
    """CIELAB of an sRGB colour, as it is seen (CIE 15, white D65)."""
    light = [linear(int(code[at : at + 2], 16) / 255) for at in (1, 3, 5)]
    seen = XYZ @ np.clip(SIGHT[sight] @ light, 0, 1) / [0.95047, 1.0, 1.08883]
    x, y, z = np.where(seen > (6 / 29) ** 3, np.cbrt(seen), seen * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_and_marks_stand_out_from_the_page(mode: str) -> None:
    """4.5 for text, 3 for marks (WCAG 2.2, AA), on the page and on a highlighted row."""
    found = colours(mode)
    assert {
        name: round(contrast(found[name], found["bg"]), 1) for name in SERIES if contrast(found[name], found["bg"]) < 3
    } == {}
    texts = ("ink", "soft", "blue", "green", "red")
    assert not [(a, b) for a in texts for b in ("bg", "panel") if contrast(found[a], found[b]) < 4.5]


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("sight", SIGHT)
def test_lines_are_told_apart_by_their_colours(mode: str, sight: str) -> None:
    """By 15 in CIELAB whoever looks, by 32 with all cones: two greens of 31 looked alike. Grey lines differ by their dashes."""
    found, hues = colours(mode), [name for name in SERIES if name != "grey"]
    apart = {
        (a, b): round(float(np.linalg.norm(lab(found[a], sight) - lab(found[b], sight))))
        for a, b in itertools.combinations(hues, 2)
    }
    assert {pair: far for pair, far in apart.items() if far < (32 if sight == "whole" else 15)} == {}


def test_the_charts_colours_are_the_style_sheets() -> None:
    """A chart's colour is exchanged for the style sheet's of that name: unknown names would be no colour at all."""
    light = colours("light")
    assert {name: code for name, code in PALETTE.items() if name != "bg"} == {
        name: light[name] for name in PALETTE if name != "bg"
    }
    assert themed({"mark": {"color": PALETTE["blue"]}, "values": [{"name": PALETTE["blue"]}]}) == {
        "mark": {"color": "var(--blue)"},
        "values": [{"name": PALETTE["blue"]}],
    }


@pytest.mark.parametrize(
    ("value", "other", "changes", "said"),
    [
        (0.9, 0.95, {"share": True}, "5.00 points below X"),
        (0.95, 0.95, {"share": True}, "level with X"),
        (0.1, 0.2, {"share": True, "up": False}, "10.00 points better than X"),
        (3.0, 2.5, {"unit": "px", "up": False}, "0.500 px worse than X"),
        (0.0, 0.0, {}, "level with X"),
        (None, 0.5, {}, ""),
    ],
)
def test_a_quality_is_compared_in_its_own_unit(
    value: float | None, other: float, changes: dict[str, Any], said: str
) -> None:
    assert Quality("m", value, **changes).against(Quality("m", other, **changes), "X") == said


@pytest.mark.parametrize(
    ("teacher", "export", "said"),
    [
        ({"median": 2.0}, {"median": 1.0}, "2 times faster"),
        ({"median": 1.0, "spread": 0.1}, {"median": 2.0, "spread": 0.8}, "2 times slower"),
        ({"median": 1.0, "spread": 0.1}, {"median": 2.0, "spread": 1.0}, ""),
        ({"median": 1.0, "spread": 0.0}, {"median": 1.04, "spread": 0.0}, ""),
        ({"median": 1.0}, None, ""),
    ],
)
def test_what_sessions_differ_by_is_not_faster(teacher: object, export: object, said: str) -> None:
    assert speed({"latency_ms": teacher}, {"latency_ms": export}) == said


def test_unsteady_latencies_are_not_called_equal() -> None:
    steady = {"latency_ms": {"median": 1.0, "spread": 0.0}}
    assert against(steady, {"latency_ms": {"median": 1.02, "spread": 0.0}}) == "as fast"
    assert against(steady, {"latency_ms": {"median": 2.0, "spread": 1.5}}) == "no clear difference"
    assert "2 times" in against(steady, {"latency_ms": {"median": 2.0, "spread": 0.5}})
    assert against(steady, {}) == "\u2013"


@pytest.mark.parametrize(
    ("cell", "columns", "cards"), [("short", 4, False), ("a sentence with many words in it", 4, True), ("a", 5, True)]
)
def test_rows_of_texts_are_cards_on_a_narrow_screen(cell: str, columns: int, cards: bool) -> None:
    """Four columns of texts side by side would be a word wide each."""
    made = Table("t", [f"c{at}" for at in range(columns)], [[cell] * columns, ["b"] * columns])
    assert ("class=cards" in table(made)) == cards


def test_a_cell_is_as_long_as_it_reads() -> None:
    assert bare("<b>a &lt; b</b> &amp; &quot;c&quot;<small class=wide>left out</small>") == 'a < b & "c"'


def test_cells_stand_right_where_a_column_is_of_numbers() -> None:
    made = table(Table("c", ["a", "b", "c"], [["x", 1.5, "y"], ["z", "97.10 %", "2 kB"], ["w", None, "n"]]))
    assert made.count("class=n>") == 1, "the head of the second"
    assert '<td class="n">1.5</td>' in made
    assert '<td class="n">\u2013</td>' in made
    assert "<td>2 kB</td>" in made
