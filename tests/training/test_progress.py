"""What a person sees where there is no terminal."""

import pytest

from kdsearch.training.share import share_of, tell_share
from kdsearch.training.tools import Progress


@pytest.fixture
def told(monkeypatch, capsys):
    clock = {"now": 0.0}
    monkeypatch.setattr("kdsearch.training.tools.time.monotonic", lambda: clock["now"])

    def line(total, done, seconds, **words):
        clock["now"] = 0.0
        bar = Progress()
        bar.begin("refine", total)
        clock["now"] = seconds
        bar.at(done, **words)
        return capsys.readouterr().err

    return line


def test_many_pieces_have_a_rate_and_the_time_left(told):
    shown = told(8, 4, 100.0, note="trial 4", best="best .91")
    assert shown == "refine: 50 % of 8 (0.04/s, about 100 s left) trial 4  best .91\n"


def test_one_piece_has_no_rate(told):
    assert told(1, 0.25, 30.0, note="training") == "refine: 25 % (about 90 s left) training\n"


def test_no_time_left_is_guessed_at_the_start(told):
    assert told(1, 0.01, 30.0, note="training") == "refine: 1 % training\n"
    assert told(100, 1, 30.0) == "refine: 1 % of 100 (0.033/s)\n"


def test_a_line_every_ten_seconds(told):
    assert told(8, 4, 9.9) == ""
    assert told(8, 4, 10.0) != ""


def test_a_process_tells_how_far_its_training_is(tmp_path):
    folder = tmp_path / "new" / "trial-1"
    assert share_of(folder) == 0
    step = tell_share(folder, every_s=0.0).step
    step("train", 1, 4, 0.5)
    assert share_of(folder) == 0.25
    step("train", 3, 4, 0.5)
    assert share_of(folder) == 0.75
    (folder / "share").write_text("")
    assert share_of(folder) == 0
