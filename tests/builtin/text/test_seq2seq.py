"""The task `seq2seq`: the contract, what one pass says of greedy writing, teachers' rows, and the two graphs that ship."""

import json
import runpy
import shutil
import sys
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from kdsearch_spaces.decoder.seq2seq import Seq2SeqSpace, Seq2SeqSpec
from torch.nn import functional as F

from kdsearch.builtin.text import prepare
from kdsearch.builtin.text.causal_lm import CausalLm
from kdsearch.builtin.text.hangul import Hangul, HangulOptions, romanised
from kdsearch.builtin.text.prepare import SEPARATOR as BOUNDARY
from kdsearch.builtin.text.seq2seq import Seq2Seq
from kdsearch.builtin.text.sequence_metrics import ExactMatch
from kdsearch.builtin.text.sequence_options import SequenceOptions
from kdsearch.builtin.text.sequence_source import SequenceSource, Written, bounded
from kdsearch.deploy.parity import module_call
from kdsearch.engine.cache import Live, TeacherCache, write_cache
from kdsearch.errors import DataError
from kdsearch.kinds import HIDDEN, Model, NoOptions
from kdsearch.testing.dataset import DatasetContract
from kdsearch.testing.metric import MetricContract
from kdsearch.testing.task import TaskContract

TEXTS = ("ab", "abc", "bca", "cabab", "a", "bbb", "abca", "cab", "ca", "ccba", "acb", "bab")


def rows(split, texts):
    ids = tuple(f"{split}{i}" for i in range(len(texts)))
    return Written(ids, [bounded(text[::-1] * 2) for text in texts], [tuple(text) for text in texts])


def source():
    splits = {"train": rows("train", TEXTS), "val": rows("val", [text + "a" for text in TEXTS])}
    return SequenceSource(splits, SequenceOptions(min_count=1, max_length=24), {"source": "drawn", "licence": "none"})


class TestTask(TaskContract):
    task = Seq2Seq

    def source(self):
        return source()


def test_a_text_without_a_token_is_written_for_as_training_reads_it(tmp_path, monkeypatch, capsys):
    """The program beside the files, its runtime replaced by one that keeps what it is fed and writes the first token, then ends."""
    fed = []

    class InferenceSession:
        def __init__(self, file, **_):
            self.names = ["tokens", "mask"] if file == "enc" else ["memory", "prefix", "prefix_mask"]

        def get_inputs(self):
            return [SimpleNamespace(name=name) for name in self.names]

        def get_outputs(self):
            return [SimpleNamespace(name="logits" if "prefix" in self.names else "memory")]

        def run(self, _, given):
            fed.append(given)
            if "prefix" not in given:
                return [np.zeros((1, 1, 4))]
            n = given["prefix"].shape[1]
            return [np.eye(4)[[[BOUNDARY + 1 if n == 1 else BOUNDARY] * n]]]

    about = {"level": "word", "lowercase": True, "vocabulary": ["a"], "max_length": 8}
    (tmp_path / "s-tokenizer.json").write_text(json.dumps(about))
    for name in ("prepare", "generate"):
        shutil.copy(Path(prepare.__file__).with_name(f"{name}.py"), tmp_path / f"s-{name}.py")
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(InferenceSession=InferenceSession))
    monkeypatch.setattr(sys, "argv", ["s-generate.py", "enc", "dec", " "])
    runpy.run_path(str(tmp_path / "s-generate.py"), run_name="__main__")
    assert fed[0]["tokens"].tolist() == [[prepare.UNKNOWN]]
    assert fed[0]["mask"].tolist() == [[1]]
    assert capsys.readouterr().out == "a\n"
    for files in (["enc"], ["dec", "enc"], ["enc", "dec", "dec"]):
        monkeypatch.setattr(sys, "argv", ["s-generate.py", *files, " "])
        with pytest.raises(SystemExit, match="2"):
            runpy.run_path(str(tmp_path / "s-generate.py"), run_name="__main__")
        said = f"{' '.join(files)}: expected one file that continues texts, or an encoder and its decoder"
        assert capsys.readouterr().err.splitlines()[-1].endswith(said)


def test_a_word_is_read_in_letters_as_it_is_typed():
    """Whoever asks by a word in syllables is understood as by its letters, which training had."""
    made = Hangul(HangulOptions(n=40, syllables=2, max_length=16, min_count=1)).open(None)
    split = made.split("train")
    for i in range(5):
        word = "".join(chr(int(each, 16)) for each in split.ids[i].split("-"))
        given = made.encode({"text": [word], "target": [romanised(word)]})
        kept = split.load([i])
        assert given["tokens"].tolist() == kept["tokens"].tolist()
        assert kept["tokens"].shape[1] > len(word)


def test_more_words_than_there_are_end_no_loop():
    with pytest.raises(DataError, match=r"data.options.n: 6,000 words of at most 1 syllables. Expected at most 5,586"):
        Hangul(HangulOptions(n=6000, syllables=1)).open(None)


class TestHangul(DatasetContract):
    @pytest.fixture
    def dataset(self):
        return Hangul(HangulOptions(n=40, max_length=32))


def of_a_network(batch, seed=0):
    """After each token some of all tokens, by it and the text's first token alone."""
    n = source().fields[0].n_values
    table = torch.randn(n, n, n, generator=torch.Generator().manual_seed(seed))
    return {"logits": table[batch["tokens"][:, :1], batch["prefix"]]}


class TestExactMatch(MetricContract):
    metric = ExactMatch
    name = "exact_match"

    def source(self):
        return source()

    def answer(self, batch):
        """Every other sample right."""
        right, wrong = self.right(batch)["logits"], of_a_network(batch)["logits"]
        even = torch.tensor([int(each.lstrip("trainvl")) % 2 == 0 for each in batch.ids])
        return {"logits": torch.where(even[:, None, None], right, wrong)}

    def right(self, batch):
        return {"logits": 20 * F.one_hot(batch["next"].clamp(min=0), source().fields[0].n_values).float()}


def written(predict, data, split, most=20):
    """What is written for each text: the likeliest token each time, none of padding and unknown, up to the boundary."""
    samples, found = data.split(split), []
    for i in range(len(samples.ids)):
        batch, prefix = samples.load([i]), torch.tensor([[BOUNDARY]])
        while prefix.shape[1] < most:
            logits = predict(batch.having(prefix=prefix, prefix_mask=torch.ones_like(prefix)))["logits"][0, -1].clone()
            logits[:BOUNDARY] = -torch.inf
            prefix = torch.cat([prefix, logits.argmax().view(1, 1)], 1)
            if int(prefix[0, -1]) == BOUNDARY:
                break
        found.append(prefix[0, 1:].tolist())
    return found


def test_one_pass_says_what_greedy_writing_gives():
    """A network that has learned some of the pairs: written token by token, as many are right as the metric says."""
    data = source()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        task = Seq2Seq(NoOptions())
        io = task.io(data.fields, data.facts)
        model = Seq2SeqSpace().build(Seq2SeqSpec(kind="gru", width=24, heads=2, encoder_layers=1, decoder_layers=1), io)
        optim = torch.optim.Adam(model.module.parameters(), 0.02)
        batch = data.split("train").load(range(len(TEXTS)))
        for _ in range(60):
            optim.zero_grad()
            loss = task.loss(task.call(model, batch), batch)
            loss.backward()
            optim.step()
    model.module.eval()

    def predict(each):
        with torch.no_grad():
            return task.call(model, each)

    shares = []
    for split in ("train", "val"):
        truth = data.split(split).load(range(len(TEXTS)))["next"]
        right = [
            out == [token for token in row if token != HIDDEN]
            for out, row in zip(written(predict, data, split), truth.tolist(), strict=True)
        ]
        found = ExactMatch(NoOptions()).measure(predict, data, split, None)
        assert found == {"exact_match": sum(right) / len(right), "n": float(len(right))}
        shares.append(found["exact_match"])
    assert shares[0] > 0.8
    assert shares[1] < 1


def test_an_unknown_token_is_never_written_right():
    splits = {"train": rows("train", TEXTS), "val": rows("val", ["abz"])}
    data = SequenceSource(splits, SequenceOptions(min_count=1), {"source": "drawn"})
    found = ExactMatch(NoOptions()).measure(TestExactMatch().right, data, "val", None)
    assert found["exact_match"] == 0


@pytest.mark.parametrize("kind", ["transformer", "gru"])
def test_it_ships_as_two_graphs_that_answer_as_one(kind):
    task, data = Seq2Seq(NoOptions()), source()
    io = task.io(data.fields, data.facts)
    model = Seq2SeqSpace().build(Seq2SeqSpec(kind=kind, width=16, heads=2), io)
    model.module.eval()
    product = task.product(model, io)
    assert list(product.graphs) == ["encoder", "decoder"]
    memory = product.graphs["encoder"].outputs[0]
    assert (memory.shape, memory.mask) == ((None, 16), "mask")
    batch = data.split("val").load([0, 3, 6])
    calls = {name: module_call(graph) for name, graph in product.graphs.items()}
    with torch.no_grad():
        assert torch.allclose(product.call(calls, batch)["logits"], task.call(model, batch)["logits"])
    whole = Model(torch.nn.Identity(), model.inputs, model.taps)
    assert list(task.product(whole, io).graphs) == ["model"]


def test_teachers_rows_are_as_long_as_what_is_written(tmp_path):
    """Also where a batch's texts are as long as its targets, and one sample's too, but not another's."""
    texts = [tuple("abcab"), tuple("ab"), tuple("a"), tuple("abcab")]
    targets = [bounded("abca"), bounded("abc"), (None, "b"), bounded("a")]  # the first and third as long as their texts
    data = SequenceSource(
        {"train": Written(tuple("0123"), targets, texts)}, SequenceOptions(min_count=1), {"source": "drawn"}
    )
    task = Seq2Seq(NoOptions())
    io = task.io(data.fields, data.facts)
    model = Seq2SeqSpace().build(Seq2SeqSpec(kind="gru", width=16, heads=2, encoder_layers=1, decoder_layers=1), io)
    model.module.eval()
    write_cache(tmp_path, Live(model, task, None), data, ["train"], ["logits"], torch.device("cpu"), 10**9)
    batch = data.split("train").load([0, 1, 2, 3])
    assert batch["tokens"].shape == batch["prefix"].shape
    stored = Live(model, task, TeacherCache(tmp_path)).outputs(batch, ["logits"], torch.device("cpu"))["logits"]
    with torch.no_grad():
        fresh = task.call(model, batch)["logits"]
    counts = task.counted(batch)
    assert torch.allclose(stored[counts], fresh[counts], atol=1e-6)


def test_words_are_named_as_unicode_does():
    assert romanised("한국어") == "hangugeo"
    batch = Hangul(HangulOptions(n=50)).open(None)
    words = {tuple(word) for word in (unicodedata.normalize("NFD", each) for each in ("한",))}
    assert words == {("ᄒ", "ᅡ", "ᆫ")}
    assert len(set(batch.split("train").ids)) == 50


def test_pairs_are_no_texts_alone():
    with pytest.raises(DataError, match="texts without a target of their own"):
        CausalLm(NoOptions()).io(source().fields, {})
    texts = SequenceSource(
        {"train": Written(("a",), [bounded("ab")])}, SequenceOptions(min_count=1), {"source": "drawn"}
    )
    with pytest.raises(DataError, match="an input 'prefix' of kind tokens"):
        Seq2Seq(NoOptions()).io(texts.fields, {})


def test_a_hidden_target_is_not_shown_by_what_is_written_of_it():
    task, data = Seq2Seq(NoOptions()), source()
    batch = data.split("train").load([0, 1, 2])
    found = task.hide(batch, torch.tensor([True, False, True]), task.targets(data.fields))
    assert bool((found["next"][[0, 2]] == HIDDEN).all())
    assert found["prefix"][0].tolist() == [BOUNDARY] + [0] * (batch["prefix"].shape[1] - 1)
    assert task.counted(found).sum(1).tolist() == [1, int(batch["prefix_mask"][1].sum()), 1]
    assert torch.equal(found["prefix"][1], batch["prefix"][1])
    assert torch.equal(found["tokens"], batch["tokens"])
