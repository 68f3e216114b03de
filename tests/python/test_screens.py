"""What a person sees of the API's objects: a few lines each, and no way to get lost in `dir`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import kdsearch
from kdsearch.errors import UserError
from tests.python.tiny_live import teacher, tiny


def fits(text: str, lines: int, width: int = 160) -> bool:
    return len(text.splitlines()) <= lines and max(map(len, text.splitlines())) <= width


def test_the_package_lists_its_api_and_nothing_else() -> None:
    assert dir(kdsearch) == sorted(kdsearch.__all__)
    for name in dir(kdsearch):
        assert getattr(kdsearch, name) is not None
    assert {"Study", "run", "Session", "Result", "load_study", "scorer", "export"} <= set(dir(kdsearch))


def test_a_study_says_what_it_asks_for() -> None:
    study = tiny(
        data={"labeled": 0.1},
        recipe=[{"use": "kd", "weight": "search"}, "fitnet"],
        constraints={"params": 20_000, "latency_ms": {"max": 1.5}},
        objectives={"accuracy": "max", "params": "min"},
    )
    assert repr(study).splitlines() == [
        "Study 'study', seed 0",
        "data     live, labels for 0.1",
        "teacher  live",
        "student  cifar_resnet (depths 1-1-1, widths 4|6)",
        "recipe   kd (weight searched), fitnet",
        "goal     accuracy max, params min",
        "limits   params <= 20,000, latency_ms <= 1.5",
        "effort   4 candidates, 2 trials of 1 epochs, 1 epochs for the winner",
        "files    onnx-fp32",
    ]
    long = tiny(student={"space": "cifar_resnet", "spec": {"widths": {"choices": list(range(1, 60))}}})
    assert fits(repr(long), 9, 100)
    assert repr(tiny(teacher=None, recipe={}, constraints={})).splitlines()[2:] == [
        "teacher  none",
        "student  cifar_resnet (depths 1-1-1, widths 4|6)",
        "recipe   the labels alone",
        "goal     the task's own",
        "limits   none",
        "effort   4 candidates, 2 trials of 1 epochs, 1 epochs for the winner",
        "files    onnx-fp32",
    ]


def test_several_teachers_and_students_have_their_names() -> None:
    study = tiny(
        teacher=None, teachers={"left": teacher(0), "right": teacher(1)}, recipe=[{"use": "kd", "teacher": "left"}]
    )
    assert "teacher  left: live; right: live" in repr(study)


def test_a_session_and_its_candidates_fit_a_line(tmp_path: Path) -> None:
    closed = kdsearch.Session(tiny(), tmp_path)
    assert repr(closed) == f"<Session of study 'study' in {tmp_path}: not open>"
    with pytest.raises(UserError, match=r"the session is not open. .*with kdsearch.Session"):
        closed.ask()
    with kdsearch.Session(tiny(), tmp_path) as session:
        candidate = session.ask()
        assert fits(repr(candidate), 1, 200)
        assert repr(candidate).startswith("<Candidate 0: basic block, depths 1-1-1, widths ")
        assert f"{candidate.costs['params']:,.0f} params" in repr(candidate)
        assert "kd 1" in repr(candidate)
        session.tell(candidate, {"accuracy": 0.75})
        assert repr(session) == f"<Session of study 'study' in {tmp_path}: 1 of 2 trials told>"
        table = session.trials_dataframe()
        assert (list(table["accuracy"]), list(table["state"])) == ([0.75], ["complete"])
        assert list(table["architecture"]) == [repr(candidate).split("0: ")[1].split(";")[0]]


def test_pieces_fit_a_line(tmp_path: Path) -> None:
    images = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    student, large = teacher(1, 4), teacher(0)
    pair = kdsearch.Distillation(student, large, ["kd", "sp"], images)
    sizes = [sum(each.numel() for each in net.parameters()) for net in (student, large)]
    assert repr(pair) == f"<Distillation: student {sizes[0]:,} params, teacher {sizes[1]:,} params; distillers kd, sp>"
    made = kdsearch.export(large, images, tmp_path / "net.onnx")
    assert repr(made).startswith(f"<Exported {tmp_path / 'net.onnx'}: {made.bytes:,} bytes, logits differ by ")
    assert "100.0% of the answers agree; 100.0% of the weights at 32 bit>" in repr(made)
    scorer = kdsearch.scorer("cifar_resnet", ["nwot", "params"], shape=(1, 8, 8))
    assert repr(scorer) == "<CombinedScorer of CifarResNetSpace by nwot, params; reads image (1, 8, 8)>"
