"""The page in a real browser: every mark, every number, no error, no request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from browser import Seen, needs_chromium, see
from conftest import make_evidence, make_result

from kdsearch.report import render

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


def test_as_many_marks_as_candidates_trials_epochs_rungs_and_finals(seen: Seen) -> None:
    evidence = make_evidence()
    assert len(seen.page.marks("candidate")) == len(evidence["candidates"]) == 400
    assert len(seen.page.marks("kept")) == sum(each["kept"] for each in evidence["candidates"]) == 8
    assert len(seen.page.marks("trial")) == len(seen.page.marks("tried")) == len(evidence["trials"])
    assert len(seen.page.marks("epoch")) == sum(len(curve) for curve in evidence["curves"].values())
    assert len(seen.page.marks("rung")) == 3 * len(evidence["ladder"])
    proxies_and_params = 1 + len(evidence["finals"][0]["scores"])
    assert len(seen.page.marks("final")) == len(evidence["finals"]) * proxies_and_params
    assert len(seen.page.marks("share")) == sum(
        share > 0 for export in make_result()["exports"] for share in export["weight_share"].values()
    )


def test_marks_carry_their_values(seen: Seen) -> None:
    evidence = make_evidence()
    costs = sorted(int(mark["data-v"].split("|")[0].replace(",", "")) for mark in seen.page.marks("candidate"))
    assert costs == sorted(each["params"] for each in evidence["candidates"])
    wanted = [f"{100 * trial['objectives']['accuracy']:.2f} %" for trial in evidence["trials"] if trial["objectives"]]
    assert sorted(mark["data-v"] for mark in seen.page.marks("trial") if "%" in mark["data-v"]) == sorted(wanted)


def test_every_number_of_the_json_is_on_the_page(seen: Seen) -> None:
    missing = [number for number in numbers_as_read(make_result()) if number not in seen.page.text]
    assert not missing


def test_the_json_comes_back_as_it_went_in(seen: Seen) -> None:
    assert json.loads(seen.page.json) == make_result()


def test_no_console_line_and_no_request(seen: Seen) -> None:
    assert seen.console == []
    assert seen.requests == []


def test_every_figure_has_title_description_and_twin(seen: Seen) -> None:
    drawings = [attrs for tag, attrs in seen.page.elements if tag == "svg" and attrs.get("role") == "img"]
    ids = [attrs["id"] for _, attrs in seen.page.elements if "id" in attrs]
    assert len(drawings) == 3 + 1 + 2 + 1 + 4 + 2
    assert all(name in ids for attrs in drawings for name in attrs["aria-labelledby"].split())
    assert len(ids) == len(set(ids))
    tags = [tag for tag, _ in seen.page.elements]
    assert tags.count("figure") == tags.count("figcaption") == 6
    assert tags.count("details") == 6


def test_the_tooltip_names_the_mark_under_the_pointer(tmp_path: Path) -> None:
    seen = see(render(make_result(), make_evidence()), tmp_path, listen=True)
    body = next(attrs for tag, attrs in seen.page.elements if tag == "body")
    assert body["data-tip"] == "teacher\n98.42 %"
    assert json.loads(body["data-seen"]) == []


def test_five_thousand_candidates_fit_a_light_page(tmp_path: Path) -> None:
    page = render(make_result(), make_evidence(n=5000, trials=60, epochs=100))
    assert len(page) < 800_000
    assert len(see(page, tmp_path).page.marks("candidate")) == 5000


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
    body = next(attrs for tag, attrs in seen.page.elements if tag == "body")
    assert json.loads(body["data-seen"]) == []
    assert seen.requests == []
    assert seen.console == []
    assert not [
        tag for tag, attrs in seen.page.elements if tag == "img" or any(name.startswith("on") for name in attrs)
    ]
    assert HOSTILE.replace("\u2028", "") in seen.page.text.replace("\u2028", "")
    assert json.loads(seen.page.json) == result
    assert len(seen.page.marks("candidate")) == 40


def test_a_plugin_section_shows_and_cannot_run(tmp_path: Path) -> None:
    fragment = (
        '<h3>Router</h3><p onclick="boom()">use of teacher A: 61.4 %</p><script>boom()</script><img src="https://a.example/x">'
        '<link rel="stylesheet" href="https://a.example/y"><div style="background:url(https://a.example/z)">x</section></main>'
        '<svg viewBox="0 0 9 9"><path d="M0 0h9"/><image href="https://a.example/i"/></svg>'
    )
    seen = see(render(make_result(), make_evidence(), [("Routing <b>", fragment)]), tmp_path, listen=True)
    body = next(attrs for tag, attrs in seen.page.elements if tag == "body")
    assert json.loads(body["data-seen"]) == []
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
    assert len(seen.console) == 2
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
