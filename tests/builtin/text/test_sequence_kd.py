"""Recipe `sequence_kd`: the contract, and what a teacher writes becomes the target of texts that have none."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from kdsearch.builtin.text.greedy import greedy
from kdsearch.builtin.text.prepare import SEPARATOR as BOUNDARY
from kdsearch.builtin.text.seq2seq import Seq2Seq
from kdsearch.builtin.text.sequence_kd import SequenceKd
from kdsearch.builtin.text.sequence_options import SequenceOptions
from kdsearch.builtin.text.sequence_source import SequenceSource, Written, bounded
from kdsearch.engine.recipe_source import RecordSource
from kdsearch.engine.setup import Site
from kdsearch.engine.splits import arrange
from kdsearch.errors import DataError
from kdsearch.host import Host
from kdsearch.kinds import HIDDEN, Batch, NoOptions
from kdsearch.study import load_study
from kdsearch.testing.data_recipe import DataRecipeContract
from kdsearch.verbs.preflight import look

EXAMPLES = Path(__file__).parents[3] / "examples"

TEXTS = [a + b + c for a in "abc" for b in "abcd" for c in ("", "a", "dd")]
N_VALUES = BOUNDARY + 1 + 4


def source(packed=False):
    """The target of a text is its letters in order of the alphabet; without `packed` a text has one."""
    ids = tuple(f"s{i}" for i in range(len(TEXTS)))
    target = [bounded("".join(sorted(text))) for text in TEXTS]
    rows = Written(ids, target, None if packed else [tuple(text) for text in TEXTS])
    return SequenceSource({"train": rows}, SequenceOptions(min_count=1, max_length=8), {"source": "drawn"})


def few(labeled=0.3):
    return arrange(source(), labeled=labeled, validation=0.2, test=0.2, seed=0, task=Seq2Seq(NoOptions()))


def backwards(batch):
    """A network that writes a text's tokens from last to first, and never ends one that has "dd" in it."""
    follows, places = [], range(batch["prefix"].shape[1])
    for tokens, mask in zip(batch["tokens"].tolist(), batch["mask"].tolist(), strict=True):
        text = [token for token, real in zip(tokens, mask, strict=True) if real][::-1]
        doubled = len(text) == 4 and text[0] == text[1]
        follows.append([text[0] if doubled else [*text, BOUNDARY][min(place, len(text))] for place in places])
    rows = F.one_hot(torch.tensor(follows), N_VALUES).float()
    rows[..., :BOUNDARY] = 9  # padding and unknown: likelier, and never written
    return {"logits": rows}


class Asked(Site):
    def predict(self, model, batch, taps=()):
        assert model == "main"
        return backwards(batch)


def services():
    return Asked(seed=0, base=Path())


class TestContract(DataRecipeContract):
    recipe = SequenceKd

    def source(self):
        return few()

    def services(self):
        return services()


def recorded():
    contract = TestContract()
    return few(), {record.key: record for record in contract.records()}


def test_known_targets_stay_and_the_teacher_writes_the_others():
    data, found = recorded()
    labeled, truth = set(data.split("labeled").ids), data.revealed().split("train")
    assert set(found) == set(data.split("train").ids)
    assert 3 <= len(labeled) < len(found)
    for key, record in found.items():
        batch = truth.load([truth.ids.index(key)])
        if key in labeled:
            expected = [token for token in batch["next"][0].tolist() if token != HIDDEN]
        else:
            expected = [*batch["tokens"][0].tolist()[::-1], BOUNDARY]
        if record.rejected:
            assert record.rejected == "its target does not end"
            assert TEXTS[int(key[1:])][2:] == "dd"
            assert len(record.fields["next"]) == 128
        else:
            assert record.fields["next"] == expected
            assert record.fields["prefix"] == [BOUNDARY, *expected[:-1]]
            assert record.fields["prefix_mask"] == [1] * len(expected)
    assert any(record.rejected for record in found.values())


def test_kept_records_are_trained_on_as_labelled_ones():
    data, found = recorded()
    kept = [record for record in found.values() if not record.rejected]
    made = data.trained_on(RecordSource(kept, TestContract().offered()))
    assert len(made.split("labeled").ids) == len(kept)
    batch = made.split("train").load(range(len(kept)))
    assert ((batch["next"] != HIDDEN).sum(1) == batch["prefix_mask"].sum(1)).all()
    assert made.split("val").ids == data.split("val").ids


def test_texts_without_targets_of_their_own_are_refused():
    with pytest.raises(DataError, match="texts with targets"):
        TestContract().made().keys(source(packed=True))


def test_a_study_says_so_before_its_teacher_is_trained():
    study = load_study(EXAMPLES / "causal_lm.yaml", Host.load(), sets=["data.recipes=[{use: sequence_kd}]"])
    with pytest.raises(DataError, match="texts with targets") as found:
        look(study, Host.load())
    assert found.value.path == "data.recipes[0]"


def test_what_is_begun_goes_on():
    """A network that counts: after each token the next one, the last but one before the boundary."""

    def counts(batch):
        follows = batch["tokens"] + 1
        return {"logits": F.one_hot(torch.where(follows == N_VALUES, BOUNDARY, follows), N_VALUES).float()}

    begun = torch.tensor([[BOUNDARY, 3], [BOUNDARY, 5]])
    write = partial(greedy, counts, Batch((), {}), begun, ("tokens", "mask"))
    assert write(9) == [[4, 5, 6, BOUNDARY], [6, BOUNDARY]]
    assert write(2) == [[4, 5], [6, BOUNDARY]]
