"""The page in a real browser: every mark, every number, no error, no request."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import pytest
from browser import Parsed, Seen, needs_chromium, see
from conftest import make_evidence, make_result

from kdsearch.report.page import render

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return see(render(make_result(), make_evidence()), tmp_path_factory.mktemp("page"))


def numbers_as_read(result: dict[str, Any]) -> list[str]:
    """The result's numbers as a reader expects them, written without the report's own code."""
    student, teacher = result["student"], result["teacher"]
    found = [f"{student['params']:,}", f"{student['macs'] / 1e6:.3g} M", f"{teacher['params']:,}"]
    for accuracy in (
        student,
        teacher,
        result["baseline"],
        result["all_labels"],
        *result["exports"],
        *result["compare"],
    ):
        found.append(f"{100 * accuracy['accuracy']:.2f} %")
    for export in result["exports"]:
        found += [
            f"{export['bytes']:,} bytes",
            f"{export['latency_ms']['median']:.5g}",
            f"{export['parity_max_abs']:.5g}",
        ]
        found += [f"{100 * share:.2f} %" for share in export["weight_share"].values()]
        found.append(f"{100 * export['top1_agreement']:.2f} %")
    found += [f"{spent:.2f} s" for spent in result["seconds"].values()]
    found += [
        f"{result['data']['labeled']:,}",
        f"{result['data']['unlabeled']:,}",
        f"{result['constraints']['macs']:,}",
    ]
    return found


def data_of(page: Parsed, name: str) -> list[dict[str, Any]]:
    """The rows of the first chart whose description starts so."""
    return next(spec["data"]["values"] for spec in page.specs if spec["description"].startswith(name))


def test_every_candidate_trial_epoch_rung_and_tried_network_is_drawn(seen: Seen) -> None:
    evidence = make_evidence()
    page = seen.page
    assert int(page.body["data-drawn"]) == len(page.specs) == 3 + 1 + 2 + 1 + 4 + 2
    candidates, trials = data_of(page, "400 candidates"), data_of(page, "accuracy of 16 trials in order")
    assert sorted(row["x"] for row in candidates) == sorted(each["params"] for each in evidence["candidates"])
    assert sum(row["kind"] in ("kept for training", "the student") for row in candidates) == 8
    assert [row.get("y") for row in trials] == [each["objectives"].get("accuracy") for each in evidence["trials"]]
    epochs = sum(len(curve) for curve in evidence["curves"].values())
    assert len(data_of(page, "training loss by epoch")) == len(data_of(page, "validation score by epoch")) == epochs
    with_cost = sum(bool(trial["objectives"]) for trial in evidence["trials"])
    finals = 4 * len({final["architecture"] for final in evidence["finals"]})
    timed = [rung for rung in evidence["ladder"] if rung["latency_ms"]]
    rungs = len(evidence["ladder"]) + 2 * len(timed)
    assert page.marks["symbol"] == 400 + len(trials) + with_cost + 2 * epochs + finals + rungs
    shares = [share for export in make_result()["exports"] for share in export["weight_share"].values()]
    assert page.marks["rect"] == sum(share > 0 for share in shares)


def test_every_number_of_the_json_is_on_the_page(seen: Seen) -> None:
    missing = [number for number in numbers_as_read(make_result()) if number not in seen.page.text]
    assert not missing


def test_the_json_comes_back_as_it_went_in(seen: Seen) -> None:
    assert json.loads(seen.page.json) == make_result()


def test_no_console_line_and_no_request(seen: Seen) -> None:
    assert seen.console == []
    assert seen.requests == []


def test_every_figure_has_words_for_those_who_do_not_see_it(seen: Seen) -> None:
    drawings = [attrs for tag, attrs in seen.page.elements if tag == "div" and "data-chart" in attrs]
    assert [attrs["role"] for attrs in drawings] == ["graphics-document"] * len(seen.page.specs)
    assert all(
        attrs["aria-label"].startswith(spec["description"])
        for attrs, spec in zip(drawings, seen.page.specs, strict=True)
    )
    assert all(attrs["tabindex"] == "0" for attrs in drawings)
    ids = [attrs["id"] for _, attrs in seen.page.elements if "id" in attrs and not attrs["id"].startswith("view")]
    assert len(ids) == len(set(ids))
    tags = [tag for tag, _ in seen.page.elements]
    assert tags.count("figure") == tags.count("figcaption") == tags.count("details") == 6


ACTS = """
const out={}, tip=document.getElementById('tip'), tick=()=>new Promise(r=>setTimeout(r,50));
const press=k=>new KeyboardEvent('keydown',{key:k,bubbles:true,cancelable:true});
const svgs=[...document.querySelectorAll('[data-chart] svg')];
const boxes=[...document.querySelectorAll('[data-chart]')], key=(box,k)=>box.dispatchEvent(press(k));
boxes[0].focus(); key(boxes[0],'ArrowRight'); out.first=tip.textContent; key(boxes[0],'ArrowLeft'); out.last=tip.textContent;
out.live=document.getElementById('live').textContent; boxes[0].blur(); out.gone=tip.hidden;
const mark=[...svgs[4].querySelectorAll('[aria-roledescription=point]')].find(m=>m.__data__.tooltip);
const box=mark.getBoundingClientRect(), at={bubbles:true,clientX:box.x+box.width/2,clientY:box.y+box.height/2};
for(const kind of ['pointermove','mousemove','mouseover','pointerover'])mark.dispatchEvent(new PointerEvent(kind,at));
await tick(); out.pointed=tip.hidden?'':tip.textContent;
const labels=()=>[...svgs[5].querySelectorAll('.role-axis-label text')].map(t=>t.textContent).sort().join();
out.before=labels(); const tools=svgs[5].closest('.panel').querySelectorAll('.tools button');
tools[0].click(); await tick(); out.zoomed=labels(); tools[2].click(); await tick(); out.reset=labels();
const head=[...document.querySelectorAll('#files table thead button')][1], body=head.closest('table').tBodies[0];
const names=()=>[...body.rows].map(r=>r.cells[0].firstChild.textContent);
head.click(); out.up=names(); out.sorted=head.parentNode.getAttribute('aria-sort'); head.click(); out.down=names();
return out;
"""


def test_marks_answer_to_pointer_and_keyboard_axes_zoom_and_tables_sort(tmp_path: Path) -> None:
    seen = see(render(make_result(), make_evidence()), tmp_path, act=ACTS)
    assert seen.errors == []
    found = seen.act
    assert found["first"].splitlines()[0] == "onnx-int4", "left to right: the least accurate first"
    assert found["last"].splitlines()[:2] == ["teacher", "accuracy: 98.42 %"]
    assert found["live"].startswith("teacher, accuracy: 98.42 %")
    assert found["gone"]
    assert "parameters: " in found["pointed"]
    assert "score: " in found["pointed"]
    assert found["before"] == found["reset"] != found["zoomed"]
    assert found["up"] == ["onnx-int4", "onnx-int8", "onnx-fp32"], "by bytes, not by the text"
    assert found["sorted"] == "ascending"
    assert found["down"] == found["up"][::-1]


def test_sizes_and_times_sort_by_what_they_are_and_not_by_their_first_digits(tmp_path: Path) -> None:
    """1.19 MB is more than 335 kB, 1 min 21 s more than 29.6 s; what is not known stands last."""
    result = make_result()
    for each, size, peak in zip(result["exports"], (1_185_000, 335_000, 201_000), (2_000_000, None, 999), strict=True):
        each |= {"bytes": size, "peak_bytes": peak}
    result["seconds"] = {"prepare": 29.6, "distill": 81.0, "export": 4000.0, "report": 0.3}
    act = """
const first=(table,n)=>{const head=[...document.querySelectorAll(table+' thead button')][n]; head.click();
const rows=[...head.closest('table').tBodies[0].rows]; return rows.map(r=>r.cells[0].firstChild.textContent)};
return [first('#files table',1),first('#files table',2),first('#making table',1)];
"""
    seen = see(render(result, {}), tmp_path, act=act)
    sizes, peaks, times = seen.act
    assert sizes == ["onnx-int4", "onnx-int8", "onnx-fp32"]
    assert peaks == ["onnx-int4", "onnx-fp32", "onnx-int8"]
    assert times == ["report", "prepare", "distill", "export", "all"]
    assert "\u2013 bytes" not in seen.page.text


def test_nothing_is_wider_than_a_phone(tmp_path: Path) -> None:
    """And no name is torn there: `session.disable_quant_qdq=1` ends a line after its dot alone."""
    result = make_result('{"depths":[2,1,2],"widths":[16,24,64]}')
    result["exports"][2] |= {"session_options": {"session.disable_quant_qdq": "1"}, "latency_tuned_ms": {"median": 0.2}}
    inner = html.escape(render(result, make_evidence()))
    frame = f"<iframe style='width:420px;height:900px;border:0' srcdoc='{inner}'></iframe>"
    act = """
const f=document.querySelector('iframe').contentDocument;
while(f.body.dataset.drawn===undefined)await new Promise(r=>setTimeout(r,20));
const w=f.documentElement.clientWidth, shown=[...f.querySelectorAll('main *')].filter(e=>!e.closest('details,svg'));
return [w,f.documentElement.scrollWidth,shown.filter(e=>e.getBoundingClientRect().right>w+.5).map(e=>e.outerHTML.slice(0,90)),
[...f.querySelectorAll('.nb')].map(e=>[e.textContent,e.getClientRects().length])];
"""
    page = '<html><head><meta http-equiv="Content-Security-Policy" content=""></head><body data-drawn="0">' + frame
    width, whole, beyond, names = see(page, tmp_path, act=act).act
    assert 400 <= width <= 420
    assert (whole, beyond) == (width, [])
    assert {"session.", "disable_quant_qdq=1", "2-1-2", "16-24-64", "97.05 %"} <= {text for text, _ in names}
    assert {lines for _, lines in names} == {1}


def test_a_cell_that_says_what_is_missing_is_no_box(tmp_path: Path) -> None:
    result = make_result()
    result["constraints"]["peak_bytes"] = 1000
    result["exports"] = []
    style = "getComputedStyle(e)"
    act = f"""
const of=name=>[...document.querySelectorAll(name)].map(e=>[e.textContent,{style}.borderTopStyle,{style}.paddingLeft]);
return [of('td .none'),of('#files p.none')];
"""
    cells, blocks = see(render(result, make_evidence()), tmp_path, act=act).act
    assert set(map(tuple, cells)) == {("not measured", "none", "0px")}
    assert ["No file was exported.", "dashed", "16px"] in blocks


def test_five_thousand_candidates_fit_a_light_page(tmp_path: Path) -> None:
    page = render(make_result(), make_evidence(n=5000, trials=60, epochs=100))
    assert len(page.encode()) < 2_000_000
    seen = see(page, tmp_path)
    rows = data_of(seen.page, "5000 candidates")
    assert len(rows) == 4000
    assert sum(row["kind"] in ("kept for training", "the student") for row in rows) >= 8
    assert "4,000 of 5,000 candidates are drawn, all kept ones among them." in seen.page.text


HOSTILE = (
    "<!--<script></script x></script><img src=x onerror=\"document.title='owned'\"><svg onload=boom()>\u2028'\"--><!--"
)


def hostile_case() -> tuple[dict[str, Any], dict[str, Any]]:
    """Every text of the run replaced by markup, keys included."""

    def spoil(value: Any) -> Any:
        if isinstance(value, dict):
            keep = {"state"} | {"candidates", "trials", "curves", "ladder", "finals", "objectives"}
            return {key if key in KNOWN or key in keep else HOSTILE + key: spoil(each) for key, each in value.items()}
        if isinstance(value, list):
            return [spoil(each) for each in value]
        return (
            HOSTILE + value
            if isinstance(value, str) and value not in ("complete", "pruned", "failed", "max")
            else value
        )

    return spoil(make_result()), spoil(make_evidence(n=40, trials=8, epochs=3))


KNOWN = {*make_result(), *make_result()["student"], *make_result()["exports"][0], *make_evidence(n=1)["candidates"][0]}
KNOWN |= {
    *make_evidence(n=1)["trials"][0],
    "epoch",
    "loss",
    "terms",
    "score",
    "interval",
    "name",
    "median",
    "min",
    "format",
    "why",
}


def test_hostile_texts_run_nothing_and_are_shown(tmp_path: Path) -> None:
    result, evidence = hostile_case()
    seen = see(render(result, evidence), tmp_path, listen=True)
    assert seen.errors == []
    assert seen.requests == []
    assert seen.console == []
    assert not [
        tag for tag, attrs in seen.page.elements if tag == "img" or any(name.startswith("on") for name in attrs)
    ]
    assert HOSTILE.replace("\u2028", "") in seen.page.text.replace("\u2028", "")
    assert json.loads(seen.page.json) == result
    assert len(data_of(seen.page, "40 candidates")) == 40


def test_a_plugin_section_shows_and_cannot_run(tmp_path: Path) -> None:
    fragment = (
        '<h3>Router</h3><p onclick="boom()">use of teacher A: 61.4 %</p><script>boom()</script><img src="https://a.example/x">'
        '<link rel="stylesheet" href="https://a.example/y"><div style="background:url(https://a.example/z)">x</section></main>'
        '<svg viewBox="0 0 9 9"><path d="M0 0h9"/><image href="https://a.example/i"/></svg>'
    )
    seen = see(render(make_result(), make_evidence(), [("Routing <b>", fragment)]), tmp_path, listen=True)
    assert seen.errors == []
    assert seen.requests == []
    assert "use of teacher A: 61.4 %" in seen.page.text
    assert "Routing <b>" in seen.page.text
    # the footer is still inside <main>: the fragment closed nothing of the page
    tags = [tag for tag, _ in seen.page.elements]
    assert tags.index("footer") > tags.index("main")
    assert tags.count("section") == 8


def test_the_recorder_sees_requests_and_errors(tmp_path: Path) -> None:
    page = render(make_result(), {}).replace(
        "<h1>", '<img src="https://a.example/x.png"><script>boom()</script><h1>', 1
    )
    seen = see(page, tmp_path, listen=True)
    assert seen.requests == ["https://a.example/x.png"]
    assert any("boom" in line for line in seen.console)


def test_the_policy_stops_what_slips_in(tmp_path: Path) -> None:
    page = render(make_result(), {}).replace(
        "<h1>", '<img src="https://a.example/x.png"><script>document.title="owned"</script><h1>', 1
    )
    seen = see(page, tmp_path)
    assert seen.requests == []
    assert len(seen.console) == 2, seen.console
    assert "owned" not in seen.page.words


def test_an_empty_run_says_what_is_missing(tmp_path: Path) -> None:
    seen = see(render({}, {}), tmp_path)
    assert seen.console == []
    for said in (
        "searched nothing",
        "No trials were run",
        "cannot be judged",
        "No training curves",
        "No file was exported",
    ):
        assert said in seen.page.text
