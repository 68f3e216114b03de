"""Embeddings: the task and its metrics keep their contracts; values against plain NumPy, torchmetrics and scikit-learn."""

import json
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score
from torchmetrics.functional.retrieval import retrieval_reciprocal_rank

from kdsearch.builtin.text.embedding import Embedding, EmbeddingOptions
from kdsearch.builtin.text.relevance import Relevance, RelevanceOptions
from kdsearch.builtin.text.retrieval import CutOptions, Mrr, Ndcg, RetrievalRecall, ranked
from kdsearch.builtin.text.texts import Texts, TextsOptions
from kdsearch.engine.splits import arrange
from kdsearch.engine.step import Cast, LiveStep
from kdsearch.errors import DataError, TapShapeError
from kdsearch.kinds import Batch, Clock, Field, NoOptions, Outputs
from kdsearch.testing.contract import failures
from kdsearch.testing.dataset import FileServices
from kdsearch.testing.metric import MetricContract
from kdsearch.testing.task import TaskContract


@pytest.fixture(scope="module", autouse=True)
def pairs(tmp_path_factory):
    """26 pairs: the first query has two documents, the last document two queries."""
    folder = tmp_path_factory.mktemp("pairs")
    rows = [(f"what is {i}" + " really" * (i % 3), f"number {i}") for i in range(24)]
    rows += [(rows[0][0], "another zero"), ("some more", rows[23][1])]
    for name in ("train", "val"):
        text = "\n".join(json.dumps({"q": q, "d": d, "id": f"{name}{i}"}) for i, (q, d) in enumerate(rows))
        (folder / f"{name}.jsonl").write_text(text)
    options = TextsOptions(path="train.jsonl", val="val.jsonl", text="q", document="d", id="id", min_count=1)
    Pairs.texts = Texts(options).open(FileServices(folder))


class Pairs:
    texts: ClassVar[object]

    def source(self):
        return Pairs.texts


class TestEmbedding(Pairs, TaskContract):
    task = Embedding
    options: ClassVar = {"width": 8}


class OfPairs(Pairs, MetricContract):
    def answer(self, batch):
        rng = torch.Generator().manual_seed(0)
        queries, documents = torch.randn(99, 6, generator=rng), torch.randn(99, 6, generator=rng)
        return {"embedding": torch.stack([queries[batch["query"]], documents[batch["document"]]], 1)}

    def right(self, batch):
        """Each query is nearest to its own: the numbers of what belongs together, spread over 60 axes."""
        owner = {}
        whole = Pairs.texts.split("val").load(range(26))
        for query, document in zip(whole["query"].tolist(), whole["document"].tolist(), strict=True):
            owner[document] = owner.get(document, owner.get(query, query))
            owner[query] = owner[document]
        axes = torch.eye(99)
        at = lambda ids: torch.tensor([owner[each] for each in ids.tolist()])  # noqa: E731
        return {"embedding": torch.stack([axes[at(batch["query"])], axes[at(batch["document"])]], 1)}


class TestNdcg(OfPairs):
    metric, name = Ndcg, "ndcg"


class TestRecall(OfPairs):
    metric, name = RetrievalRecall, "retrieval_recall"
    options: ClassVar = {"k": 3}


class TestMrr(OfPairs):
    metric, name = Mrr, "mrr"


def test_values_are_those_of_scikit_learn_and_torchmetrics():
    """Every query against every document, one by one."""
    answer = OfPairs().answer
    batch = Pairs.texts.split("val").load(range(26))
    vectors = torch.nn.functional.normalize(answer(batch)["embedding"].double(), dim=-1)
    queries = dict(zip(batch["query"].tolist(), vectors[:, 0], strict=True))
    documents = dict(zip(batch["document"].tolist(), vectors[:, 1], strict=True))
    relevant = set(zip(batch["query"].tolist(), batch["document"].tolist(), strict=True))
    assert (len(queries), len(documents)) == (25, 25)
    ndcg, recall, mrr = [], [], []
    for query, vector in queries.items():
        scores = torch.stack([vector @ each for each in documents.values()])
        truth = torch.tensor([(query, name) in relevant for name in documents])
        ndcg.append(ndcg_score(truth[None].double(), scores[None], k=5))
        best = scores.argsort(descending=True)[:5]
        recall.append(float(truth[best].sum() / truth.sum()))
        mrr.append(float(retrieval_reciprocal_rank(scores + 2, truth)))
    measure = lambda metric: metric.measure(answer, Pairs.texts, "val", None)  # noqa: E731
    assert measure(Ndcg(CutOptions(k=5)))["ndcg"] == pytest.approx(np.mean(ndcg), abs=1e-9)
    assert measure(RetrievalRecall(CutOptions(k=5)))["retrieval_recall"] == pytest.approx(np.mean(recall), abs=1e-9)
    assert measure(Mrr(NoOptions()))["mrr"] == pytest.approx(np.mean(mrr), abs=1e-6)
    assert measure(Mrr(NoOptions()))["n"] == 25


@pytest.mark.parametrize("value", [1.0, 0.0, float("nan")])
def test_one_vector_for_all_gains_nothing(value):
    found = ranked(lambda batch: {"embedding": torch.full((len(batch), 2, 3), value)}, Pairs.texts, "val")
    assert found.places[:, 0].min() == 24  # of 25 documents, behind all wrong ones
    assert sorted(found.n_right.tolist()) == [1] * 24 + [2]


def test_a_document_of_zeros_is_behind_every_other_one():
    """Also behind what points away."""
    vectors = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [-1.0, 0.0]]])
    fields = {"query": torch.tensor([0, 1]), "document": torch.tensor([2, 3]), "paired": torch.ones(2)}
    split = SimpleNamespace(ids=("a", "b"), load=lambda index: Batch(("a", "b"), fields))
    found = ranked(lambda batch: {"embedding": vectors}, SimpleNamespace(split=lambda name: split), "val")
    assert found.places[:, 0].tolist() == [2, 1]


def test_where_no_pair_is_known_nothing_can_be_ranked():
    data = arrange(Pairs.texts, labeled=0.25, validation=0.2, test=0.2, seed=0, task=Embedding(EmbeddingOptions()))
    n = len(data.split("unlabeled").ids)
    with pytest.raises(DataError, match=f"{n} samples and no pair"):
        ranked(OfPairs().answer, data, "unlabeled")


def test_pairs_are_hidden_as_labels_are():
    data = arrange(Pairs.texts, labeled=0.25, validation=0.2, test=0.2, seed=0, task=Embedding(EmbeddingOptions()))
    n = {name: len(data.split(name).ids) for name in ("labeled", "unlabeled")}
    assert n["labeled"] + n["unlabeled"] == len(data.split("train").ids)
    assert 0 < n["labeled"] < 10
    assert data.split("unlabeled").load([0, 1])["paired"].isnan().all()
    assert (data.split("labeled").load([0, 1])["paired"] == 1).all()
    assert (data.revealed().split("train").load(range(20))["paired"] == 1).all()


def made(width=3, n=5, seed=0, dtype=torch.float64):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n, 2, width, generator=rng, dtype=dtype)


def of_ids(query, document):
    return Batch(tuple(map(str, range(len(query)))), {"query": torch.tensor(query), "document": torch.tensor(document)})


def test_the_loss_is_the_paper_s_and_equals_are_no_negatives():
    task, pairs = Embedding(EmbeddingOptions(width=3, temperature=0.5)), made(dtype=torch.float32)
    query_ids, document_ids = [0, 1, 2, 0, 4], [5, 6, 7, 8, 7]  # 0 and 3 share a query, 2 and 4 a document
    found = task.loss(Outputs({"embedding": pairs}, owner="student"), of_ids(query_ids, document_ids))
    unit = (pairs / pairs.norm(dim=-1, keepdim=True)).double().numpy()
    scores = unit[:, 0] @ unit[:, 1].T / 0.5
    losses = []
    for i in range(5):
        negatives = [j for j in range(5) if query_ids[j] != query_ids[i] and document_ids[j] != document_ids[i]]
        for each in (scores[i], scores[:, i]):
            losses.append(np.log(np.exp(each[[i, *negatives]]).sum()) - each[i])
    assert float(found) == pytest.approx(np.mean(losses), abs=1e-5)


class Seen:
    """A step of a student and a teacher that answer these pairs; `hidden`: samples that are not known to be pairs."""

    def __init__(self, student, teacher, hidden=()):
        self.student, self.teacher = {"embedding": student}, {"embedding": teacher}
        paired = torch.tensor([float("nan") if i in hidden else 1.0 for i in range(len(student))])
        ids = torch.arange(len(student))
        self.batch = Batch(tuple(map(str, ids.tolist())), {"query": ids, "document": ids, "paired": paired})


def test_relevance_is_the_divergence_of_preferences_and_widths_may_differ():
    distiller = Relevance(RelevanceOptions(temperature=0.5))
    student, teacher = made(3).float(), made(7, seed=1).float()
    expected = 0.0
    probs = []
    for pairs in (teacher, student):
        unit = (pairs / pairs.norm(dim=-1, keepdim=True)).double().numpy()
        e = np.exp(unit[:, 0] @ unit[:, 1].T / 0.5)
        probs.append((e / e.sum(1, keepdims=True), (e / e.sum(0, keepdims=True)).T))
    for p_t, p_s in zip(*probs, strict=True):
        expected += (p_t * np.log(p_t / p_s)).sum() / 5 / 2
    assert float(distiller.terms(Seen(student, teacher))["kl"]) == pytest.approx(expected, abs=1e-6)
    assert float(distiller.terms(Seen(student, student))["kl"]) == pytest.approx(0, abs=1e-6)
    student.requires_grad_()
    distiller.terms(Seen(student, teacher))["kl"].backward()
    assert student.grad.abs().sum() > 0


def test_what_the_texts_of_no_pair_are_to_each_other_is_not_asked():
    """Of a hidden sample query and document are compared with the others' alone: against plain NumPy, row by row."""
    distiller = Relevance(RelevanceOptions(temperature=0.5))
    student, teacher, hidden = made(3).float(), made(7, seed=1).float(), (1, 4)
    expected = 0.0
    for axis in (0, 1):
        for i in range(5):
            seen = [j for j in range(5) if j != i or i not in hidden]
            rows = []
            for pairs in (teacher, student):
                unit = (pairs / pairs.norm(dim=-1, keepdim=True)).double().numpy()
                e = np.exp(unit[i, axis] @ unit[seen, 1 - axis].T / 0.5)
                rows.append(e / e.sum())
            expected += (rows[0] * np.log(rows[0] / rows[1])).sum() / 5 / 2
    assert float(distiller.terms(Seen(student, teacher, hidden))["kl"]) == pytest.approx(expected, abs=1e-6)
    alone = distiller.terms(Seen(student[:1], teacher[:1], (0,)))["kl"]
    assert float(alone) == 0


def test_relevance_of_a_teacher_that_answers_no_pair_is_refused():
    from kdsearch.kinds import Model, Shapes, TapShapes

    net = Model(torch.nn.Linear(2, 2), ("x",), outputs=("embedding",))
    one, pair = Shapes(net, {"embedding": (64,)}), Shapes(net, {"embedding": (2, 64)})
    Relevance(RelevanceOptions()).build(TapShapes(one, pair))
    with pytest.raises(TapShapeError, match=r"\(2, D\)"):
        Relevance(RelevanceOptions()).build(TapShapes(pair, one))


def test_data_without_documents_are_refused():
    task = Embedding(EmbeddingOptions())
    tokens = Field("tokens", "tokens", (None,), "int64", n_values=9)
    with pytest.raises(DataError, match="document_tokens like tokens"):
        task.io((tokens,), {})


def test_a_task_that_takes_equals_for_negatives_would_be_found():
    """The contract's own rule: of twice the samples the loss is no other."""

    class Naive(Embedding):
        options_class = EmbeddingOptions

        def loss(self, out, batch):
            return super().loss(out, batch) * len(batch)

    contract = type("Contract", (Pairs, TaskContract), {"task": Naive, "options": {"width": 8}})
    assert "test_loss_is_a_mean_in_any_order" in failures(contract)


def test_a_method_sees_each_vector_of_a_pair_as_a_row():
    """`step.rows` goes by what the task answers, a pair of vectors, not by what the network does, one."""
    task = Embedding(EmbeddingOptions(width=3))
    cast = Cast(task, task.io(Pairs.texts.fields, {}), {}, {}, {}, torch.device("cpu"))
    batch, pairs = Pairs.texts.split("train").load(range(5)), made()
    step = LiveStep(cast, {"train": batch}, batch, torch.Generator(), Clock(0, 0, 0.0, 1))
    assert torch.equal(step.rows(pairs, "embedding"), pairs.reshape(10, 3))
