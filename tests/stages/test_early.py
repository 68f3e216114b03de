"""What can be known of a search is said before a teacher is trained, and nothing is left behind."""

from __future__ import annotations

import pytest

from kdsearch.errors import UserError
from kdsearch.stages import prepare
from tests.stages.tiny import LESS, run_tiny


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (
            ("student.space=masternet", "student.spec={}", "search.strategy={use: optuna}"),
            "search.strategy: optuna cannot",
        ),
        (("student.space=masternet", "student.spec={}", "search.strategy={use: exhaustive}"), "search.strategy: "),
        (("student.space=text_encoder", "student.spec={}"), "student.space: search space 'text_encoder': the input is"),
        (
            ("student.space=mlp", "student.spec={}", "search.proxy=kd.fitnet"),
            "search.proxy: tap 'stage[-2]' of 'mlp' is",
        ),
        (("search.proxy=[params, diswot_ms]",), "search.proxy[1]: M_s is undefined"),
    ],
)
def test_it_is_named_before_any_training(sets, message, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "make", lambda *_: pytest.fail("a teacher was trained"))
    with pytest.raises(UserError) as caught:
        run_tiny(tmp_path, *LESS, *sets)
    assert message in str(caught.value)
    assert "tiny.yaml" in str(caught.value) or "--set" in str(caught.value)
    assert [each.name for each in tmp_path.iterdir()] == ["tiny.yaml"]
