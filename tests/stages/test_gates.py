"""What the gates refuse is not written; everything else is."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

from kdsearch.cli import main
from kdsearch.deploy.parity import Difference
from kdsearch.errors import RefusedError, StudyError, UserError
from kdsearch.host import Host
from kdsearch.kinds import Field
from kdsearch.stages import one_file
from kdsearch.stages.notes import not_asked
from kdsearch.stages.one_file import check_drop
from kdsearch.stages.quality import Quality
from kdsearch.store.files import read_json
from kdsearch.study import load_study
from kdsearch.verbs.export import _quantizers
from kdsearch.verbs.summary import SAID, summary_of
from tests.stages.tiny import run_tiny, write_study


def test_drop_beyond_its_bound(copied, capsys, monkeypatch):
    """INT4 loses accuracy; every other file is there."""
    real = one_file.check_drop

    def strict(materials, form, quality, reference):
        quality = {**quality, "value": reference["value"] - 0.25} if form == "onnx-int4" else quality
        real(materials, form, quality, reference)

    monkeypatch.setattr(one_file, "check_drop", strict)
    study = copied / "study"
    command = ["run", str(write_study(copied)), "--dir", str(study), "--json"]
    sets = ["--set", "export.max_drop={onnx-int8: 1.0, onnx-int4: 0}"]
    assert main([*command, *sets]) == 3
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert [each["format"] for each in result["refused"]] == ["onnx-int4"]
    assert "0.2500 worse than fp32's" in result["refused"][0]["reason"]
    assert "the study allows 0" in err
    assert "Loosen the bound in `export`" in err
    assert [row["format"] for row in result["exports"]] == ["onnx-fp32", "onnx-int8"]
    assert sorted(each.name for each in (study / "export").iterdir()) == [
        "predict.py",
        "tiny-fp32.json",
        "tiny-fp32.onnx",
        "tiny-int8.json",
        "tiny-int8.onnx",
    ]
    assert read_json(study / "result.json") == result
    assert main([*command, *sets]) == 3, "a refusal stays one"
    for text in ("", "anew"):  # as the run wrote the page, and as `report` does
        page = (study / "report" / "index.html").read_text(encoding="utf-8")
        page = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
        assert html.escape(result["refused"][0]["reason"]) in page, text
        (study / "report" / "index.html").unlink()
        assert main(["report", str(study)]) == 0
    capsys.readouterr()
    assert main(["verify", str(study / "export" / "tiny-int8.onnx")]) == 0
    assert main(["verify", str(study / "export" / "tiny-int4.onnx")]) == 2
    assert "tiny-int4.onnx: there is no such file" in capsys.readouterr().err
    assert main(["export", str(study), "--format", "onnx-int4"]) == 3
    assert "0.2500 worse than fp32's" in capsys.readouterr().err
    assert main(["export", str(study), "--format", "onnx-int8"]) == 0
    assert not (study / "export" / "tiny-int4.onnx").exists()
    monkeypatch.setattr(one_file, "check_drop", real)
    capsys.readouterr()
    assert main([*command, "--set", "export.max_drop={onnx-int8: 1.0, onnx-int4: 0.999}"]) == 0
    assert (study / "export" / "tiny-int4.onnx").exists()


def test_a_format_that_is_asked_for_is_there_though_another_was_refused(copied, capsys, monkeypatch):
    real = one_file.check_drop

    def strict(materials, form, quality, reference):
        if form == "onnx-int8":
            raise RefusedError(f"{form} is bad")
        real(materials, form, quality, reference)

    monkeypatch.setattr(one_file, "check_drop", strict)
    study = copied / "study"
    sets = ["--set", "export.formats=[onnx-fp32, onnx-int8]", "--set", "export.max_drop={onnx-int8: 1.0}"]
    assert main(["run", str(write_study(copied)), "--dir", str(study), *sets]) == 3
    capsys.readouterr()
    assert main(["export", str(study), "--format", "onnx-int4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["format"] == "onnx-int4"


def test_the_quantizer_of_a_format_is_the_study_s_own_where_it_has_one(tmp_path, monkeypatch):
    """By a name that says whose it is, too; else an installed one; and an exporter's name may hold a hyphen."""
    uses = ["kdsearch:quantizer:int8"]
    sets = [f"compress.quantize={uses}", "export.formats=[onnx-fp32]", "export.max_drop={}"]
    host = Host.load()
    study = load_study(write_study(tmp_path), host, sets=sets)
    for form in ("onnx-int8", "onnx-fp32"):
        assert [each["use"] for each in _quantizers(study, host, form)] == uses
    assert [each["use"] for each in _quantizers(study, host, "onnx-int4")] == [*uses, "int4"]
    with pytest.raises(UserError, match="unknown format 'onnx-int5'; did you mean") as caught:
        _quantizers(study, host, "onnx-int5")
    assert "Expected onnx-fp32, onnx-int4 or onnx-int8" in str(caught.value), "not OpenVINO's"
    monkeypatch.setattr(host.load_class("quantizer", "int4"), "rewrites", ".xml")
    with pytest.raises(UserError, match="Expected onnx-fp32 or onnx-int8"):
        _quantizers(study, host, "onnx-int5")
    hyphen = study.config.export.exporter.model_copy(update={"use": "on-nx"})
    export = study.config.export.model_copy(update={"exporter": hyphen})
    other = replace(study, config=study.config.model_copy(update={"export": export}))
    assert [each["use"] for each in _quantizers(other, host, "on-nx-int4")] == [*uses, "int4"]


def test_answers_that_are_not_torchs(copied, capsys, monkeypatch):
    """A file whose quality is within its bound, but which answers otherwise in 17 of 100 samples."""
    real = one_file.compare
    monkeypatch.setattr(
        one_file, "compare", lambda *args, **given: replace(real(*args, **given), top1_agreement=0.83, judged=100)
    )
    study = copied / "study"
    command = ["run", str(write_study(copied)), "--dir", str(study), "--json"]
    sets = ["--set", "export.formats=[onnx-fp32, onnx-int8]", "--set", "export.max_drop={onnx-int8: 1.0}"]
    assert main([*command, *sets, "--set", "export.min_agreement={onnx-fp32: 0.83}"]) == 3
    result = json.loads(capsys.readouterr().out)
    assert [each["format"] for each in result["refused"]] == ["onnx-int8"]
    assert result["refused"][0]["reason"] == "83.00% of its answers are torch's; the study asks for 90.00%"
    (row,) = result["exports"]
    assert row["bounds"] == {"parity": 1e-4, "max_drop": None, "min_agreement": 0.83, "elsewhere": None}
    assert read_json(study / "export" / "tiny-fp32.json")["bounds"] == row["bounds"]
    assert not (study / "export" / "tiny-int8.onnx").exists()
    assert "bound 83 %" in (study / "report" / "index.html").read_text()
    assert main([*command, *sets, "--set", "export.min_agreement={onnx-fp32: 0.83, onnx-int8: 0.8}"]) == 0
    bounds = json.loads(capsys.readouterr().out)["exports"][1]["bounds"]
    assert bounds == {"parity": None, "max_drop": 1.0, "min_agreement": 0.8, "elsewhere": 0.05}


def test_agreement_where_no_classes_are_scored_is_no_bound():
    one_file.check_agreement(_materials(min_agreement={"onnx-int8": 1.0}), "onnx-int8", None)
    one_file.check_agreement(_materials(min_agreement={}), "onnx-int8", 0.9)
    with pytest.raises(RefusedError, match=r"asks for 90\.00%\. Loosen the bound"):
        one_file.check_agreement(_materials(min_agreement={}), "onnx-int4", 0.899)


@pytest.mark.parametrize(
    ("kind", "shape", "expected"),
    [
        ("logits", (3,), True),
        ("logits", (5, 3), False),
        ("class", (), True),
        ("class", (4, 4), False),
        ("scores", (3,), False),
    ],
)
def test_one_decision_a_sample_makes_the_agreement_a_proportion(kind, shape, expected):
    """Of samples, whose interval a card states: many decisions of one sample are not independent."""
    outputs = (Field("y", kind, shape), Field("z", "vector", (2,)))
    product = SimpleNamespace(graphs={"student": SimpleNamespace(outputs=outputs)})
    assert one_file._judges_samples(product) == expected


def test_a_bound_on_agreement_that_no_file_can_be_held_against_is_said():
    """In the notes, which JSON, page and terminal hold; of several roles, for those that score no classes."""
    stated = {"onnx-int8": 0.95}
    known, unknown = {"format": "onnx-int8", "top1_agreement": 0.97}, {"format": "onnx-int8", "top1_agreement": None}
    assert not_asked(stated, [known, {"format": "onnx-fp32", "top1_agreement": None}]) == []
    (said,) = not_asked(stated, [{**known, "role": "tagger"}, {**unknown, "role": "encoder"}])
    assert said.startswith("export.min_agreement was not asked of encoder onnx-int8: no output is of kind 'logits'")
    assert said.startswith(SAID)


def test_the_note_is_on_the_page_and_in_the_terminal(copied, monkeypatch):
    real = one_file.compare
    monkeypatch.setattr(one_file, "compare", lambda *args, **given: replace(real(*args, **given), top1_agreement=None))
    sets = ("export.formats=[onnx-fp32]", "export.max_drop={}", "compress.quantize=[]")
    result = run_tiny(copied, *sets, "export.min_agreement={onnx-fp32: 0.99}")
    said = "export.min_agreement was not asked of onnx-fp32"
    assert any(note.startswith(said) for note in result["notes"])
    assert said in (copied / "study" / "report" / "index.html").read_text()
    assert said in summary_of(result, copied)
    assert result["exports"][0]["bounds"]["min_agreement"] is None


def _materials(**export):
    return SimpleNamespace(study=SimpleNamespace(config=SimpleNamespace(export=SimpleNamespace(**export))))


def drop(bounds, form, value, fp32, **changes):
    """Check a file's quality against fp32's under these bounds."""
    about = {**Quality("accuracy", 0.0, "max", "share").as_json(), **changes}
    check_drop(_materials(max_drop=bounds), form, {**about, "value": value}, {**about, "value": fp32})


def test_drop_is_counted_in_the_objectives_own_unit():
    """Fractions of a share, whatever is given of anything else, in its direction; without a bound .01 of a share."""
    drop({"onnx-int8": 0.02}, "onnx-int8", 0.88, 0.9)
    drop({"onnx-int8": 0.02}, "onnx-int4", 0.895, 0.9)
    with pytest.raises(RefusedError, match=r"0.8790 is 0.0210 worse than fp32's 0.9000; the study allows 0.02"):
        drop({"onnx-int8": 0.02}, "onnx-int8", 0.879, 0.9)
    with pytest.raises(RefusedError, match=r"the study allows 0.01"):
        drop({"onnx-int8": 0.02}, "onnx-int4", 0.889, 0.9)
    less = {"metric": "distance", "direction": "min", "unit": "px"}
    drop({"onnx-int8": 2.0}, "onnx-int8", 11.9, 10.0, **less)
    drop({}, "onnx-int8", 5.0, 10.0, **less)
    with pytest.raises(RefusedError, match=r"distance 12.1000 is 2.1000 worse than fp32's 10.0000; the study allows 2"):
        drop({"onnx-int8": 2.0}, "onnx-int8", 12.1, 10.0, **less)
    with pytest.raises(RefusedError, match=r"10.2000 is 0.2000 worse .* allows 0.1"):
        drop({}, "onnx-int8", 10.2, 10.0, **less)


def test_drop_may_be_per_cent_of_fp32():
    drop({"onnx-int8": "1%"}, "onnx-int8", 0.892, 0.9)
    drop({"onnx-int8": "1%"}, "onnx-int8", 1010.0, 1000.0, direction="min", unit="")
    with pytest.raises(RefusedError, match=r"0.8909 is 0.0091 worse than fp32's 0.9000; the study allows 1%"):
        drop({"onnx-int8": "1%"}, "onnx-int8", 0.8909, 0.9)
    with pytest.raises(RefusedError, match="not a number"):
        drop({"onnx-int8": "1%"}, "onnx-int8", float("nan"), 0.9)


@pytest.mark.parametrize("text", ["1", "-1%", "%", "one%", "1 per cent"])
def test_a_drop_that_is_neither_is_refused(text, tmp_path):
    with pytest.raises(StudyError, match="max_drop"):
        load_study(write_study(tmp_path), Host.load(), sets=(f'export.max_drop={{onnx-int8: "{text}"}}',))


def test_parity_beyond_its_bound(copied, monkeypatch):
    real = one_file.compare

    def far(*args, **given):
        return replace(real(*args, **given), differences=(Difference("logits", 0.01, 5.0, 9.0, own=2e-4),))

    monkeypatch.setattr(one_file, "compare", far)
    said = (
        r"onnx-fp32: differs from torch by 0\.01 at output 'logits', 0\.002 of its scale 5; torch's own fp32 is 0\.0002"
    )
    with pytest.raises(RefusedError, match=said) as caught:
        run_tiny(copied, "export.parity=1e-3")
    fp32, *others = caught.value.result["refused"]
    assert [each["format"] for each in (fp32, *others)] == ["onnx-fp32", "onnx-int8", "onnx-int4"]
    assert {each["reason"] for each in others} == {f"its fp32 file is refused: {fp32['reason']}"}
    assert caught.value.result["exports"] == []
    assert not list((copied / "study" / "export").glob("*.onnx"))


@pytest.mark.parametrize("limit", ["constraints.params=100", "constraints.macs=500", "constraints.onnx_bytes=600"])
def test_nothing_is_feasible(limit, copied):
    study = copied / "study"
    before = {each.name for each in (study / "artifacts").iterdir()}
    with pytest.raises(RefusedError) as caught:
        run_tiny(copied, limit)
    assert caught.value.exit_code == 3
    said = str(caught.value)
    assert f"{limit.partition('.')[2].partition('=')[0]} <= {limit.partition('=')[2]}" in said
    assert "the smallest" in said
    assert "tiny.yaml:15" in said or "--set" in said
    assert {each.name for each in (study / "artifacts").iterdir()} == before
    assert not list(study.rglob("*.part"))


def test_only_the_file_is_too_large(copied):
    """Its four bytes a weight fit, the graph around them does not."""
    with pytest.raises(RefusedError) as caught:
        run_tiny(copied, "constraints.onnx_bytes=6000", "search.candidates=2", "search.keep=2")
    said = str(caught.value)
    assert (found := re.search(r"none of \d+ exported .*\(best: onnx_bytes ([\d,]+), limit 6,000\)", said)) is not None
    costs = [read_json(each) for each in (copied / "study").rglob("costs-*.json")]
    assert int(found[1].replace(",", "")) in [each["onnx_bytes"] for each in costs]
    assert "Relax onnx_bytes, or widen the space." in said


def test_verify_measures_the_test_split_again(finished, copied, capsys):
    """In every format, from the study's folder, to the figure in the card; and not what was changed."""
    study = copied / "study"
    for kind in ("fp32", "int8", "int4"):
        command = ["verify", str(study / "export" / f"tiny-{kind}.onnx"), "--data", str(study), "--json"]
        assert main(command) == 0
        found = json.loads(capsys.readouterr().out)
        quality = read_json(study / "export" / f"tiny-{kind}.json")["metrics"]["quality"]
        assert found["checks"][-1]["said"].startswith(f"accuracy {quality['value']:.4f} of {quality['n']}")
    card = study / "export" / "tiny-fp32.json"
    told = read_json(card)
    told["metrics"]["quality"]["value"] += 0.02
    card.write_text(json.dumps(told))
    assert main(["verify", str(study / "export" / "tiny-fp32.onnx"), "--data", str(study)]) == 3
    assert "quality" in capsys.readouterr().err
