"""A teacher that only writes: labels as data, and a student fed from easy to hard (after Doc-FLAN-T5, arXiv 2409.11282)."""

import difflib
import re
import statistics

import torch
from torch import nn
from torch.nn import functional as F

from kdsearch.kinds import (
    HIDDEN,
    IO,
    Batch,
    DataRecipe,
    Field,
    Model,
    Options,
    Phase,
    Procedure,
    Record,
    Reply,
    Task,
    TextTeacher,
    Update,
)
from kdsearch.testing.training import TensorSource, training

LETTERS = "\0" + " \n0123456789abcdefghijklmnopqrstuvwxyz:"
LENGTH, ANSWER = 48, 6


def spatial_text(words):
    """Words (text, x0, y0, x1, y1) -> text whose spaces and line breaks mimic the page."""
    height = statistics.median(y1 - y0 for _, _, y0, _, y1 in words)
    width = statistics.median((x1 - x0) / len(text) for text, x0, _, x1, _ in words)
    margin = min(x0 for _, x0, _, _, _ in words)
    lines = []
    for word in sorted(words, key=lambda w: (w[2] + w[4]) / 2):
        middle = (word[2] + word[4]) / 2
        if lines and abs(middle - statistics.fmean((w[2] + w[4]) / 2 for w in lines[-1])) <= height / 2:
            lines[-1].append(word)
        else:
            lines.append([word])
    text = []
    for line in lines:
        row = ""
        for word, x0, *_ in sorted(line, key=lambda w: w[1]):
            column = round((x0 - margin) / width)
            row += " " * max(column - len(row), 1 if row else 0) + word
        text.append(row)
    return "\n".join(text)


def similarity(value, document):
    """Largest edit similarity of the value to a span of its length, in [0, 1]."""
    spans = [document[i : i + len(value)] for i in range(max(len(document) - len(value) + 1, 1))]
    return max(difflib.SequenceMatcher(None, value, span, autojunk=False).ratio() for span in spans)


class LabelOptions(Options):
    llm: TextTeacher = "llm"
    similarity: float = 0.9


class LabelDocuments(DataRecipe[LabelOptions]):
    """Asks for a document's total; an answer that no span of the document resembles is rejected."""

    chunk = 4

    def keys(self, source):
        return list(source.split("train").ids)

    def make(self, keys, source, services):
        split = source.split("train")
        place = {sample: i for i, sample in enumerate(split.ids)}
        batch = split.load([place[key] for key in keys])
        prompts = [f"total of this page, or none?\n{text}" for text in batch.texts["page"]]
        replies = services.writer(self.options.llm).write(prompts, n=1, temperature=0.0)
        for key, page, (reply,) in zip(keys, batch.texts["page"], replies, strict=True):
            value = reply.text.strip()
            rejected = "" if reply.finish == "stop" else "unfinished"
            if not rejected and similarity(value, page) < self.options.similarity:
                rejected = "not in the document"
            yield Record(key, {"page": page, "answer": value}, rejected)

    def open(self, records, source):
        kept = [record for record in records if not record.rejected]
        tokens = torch.tensor([encoded(r.fields["page"], LENGTH) for r in kept])
        target = torch.tensor([encoded(r.fields["answer"] + "\n", ANSWER) for r in kept])
        before = torch.cat([torch.zeros(len(kept), 1, dtype=torch.int64), target[:, :-1]], 1)
        return TensorSource(
            {"train": {"page": tokens, "before": before, "answer": target.where(target > 0, HIDDEN)}}, n_classes=2
        )


def encoded(text, length):
    index = [LETTERS.index(letter) for letter in text[:length]]
    return index + [0] * (length - len(index))


class Pages:
    """Documents with a text field; DataSource and its only split at once."""

    fields, facts, splits = (Field("page", "text", ()),), {"source": "drawn", "licence": "none"}, ("train",)

    def __init__(self, n):
        rng = torch.Generator().manual_seed(0)
        self.pages, self.ids = [], [f"page-{i:03d}" for i in range(n)]
        for i in range(n):
            total, tax = (int(torch.randint(10, 99, (), generator=rng)) for _ in range(2))
            rows = [("tax:", str(tax)), *[("pen", str(k)) for k in range(i % 3)], ("total:", str(total))]
            words = []
            for at, (left, right) in enumerate(rows):
                words += [(left, 0, 20 * at, 10 * len(left), 20 * at + 10)]
                words += [(right, 80, 20 * at + 1, 80 + 10 * len(right), 20 * at + 11)]
            self.pages.append(spatial_text(words))

    def split(self, name):
        return self

    def load(self, index, augment=False, seed=0):
        return Batch(tuple(self.ids[i] for i in index), {}, texts={"page": [self.pages[i] for i in index]})


class Scripted:
    """A writer by rule with realistic errors: some totals are invented, some replies unfinished. Counts what it is asked."""

    def __init__(self, on_call=lambda n: None):
        self.asked, self.on_call = [], on_call

    def write(self, prompts, n=1, temperature=0.0, stop=(), seed=0, max_tokens=256):
        self.on_call(len(self.asked))
        self.asked += prompts
        return [[self.reply(prompt)] * n for prompt in prompts]

    @staticmethod
    def reply(prompt):
        total = re.search(r"total:\s*(\d+)", prompt).group(1)
        if int(total) % 7 == 0:
            return Reply(f"{total}", finish="length")
        return Reply(f"x{total}y" if int(total) % 5 == 0 else total)


class Reading(Task):
    """Token cross-entropy of the answer."""

    def io(self, fields, facts):
        inputs = tuple(each for each in fields if each.name != "answer")
        return IO(inputs, (Field("logits", "tokens", (ANSWER, len(LETTERS))),))

    def loss(self, out, batch):
        return F.cross_entropy(out["logits"].flatten(0, 1), batch["answer"].flatten(), ignore_index=HIDDEN)


class Reader(nn.Module):
    def __init__(self, width=12):
        super().__init__()
        self.embed, self.drop = nn.Embedding(len(LETTERS), width, padding_idx=0), nn.Dropout(0.1)
        self.encoder, self.decoder = (nn.GRU(width, width, batch_first=True) for _ in range(2))
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.out = nn.Linear(2 * width, len(LETTERS))

    def forward(self, page, before):
        memory, last = self.encoder(self.drop(self.embed(page)))
        said, _ = self.decoder(self.embed(before), last)
        looked, _ = self.attention(said, memory, memory, need_weights=False)
        return self.out(torch.cat([said, looked], -1))


class CurriculumOptions(Options):
    start: float = 0.25
    full_at: float = 0.5


class Curriculum(Procedure[CurriculumOptions]):
    """Pass e draws from the easiest c(e) of the samples, shortest pages first; c grows from `start` to 1."""

    def phases(self, setup):
        split, o = setup.data.split("train"), self.options
        lengths = (split.load(range(len(split.ids)))["page"] > 0).sum(1).tolist()
        ranked = sorted(range(len(lengths)), key=lambda i: (lengths[i], split.ids[i]))

        def order(one):
            share = min(1.0, o.start + (1 - o.start) * one.epoch / (o.full_at * setup.epochs))
            easiest = ranked[: max(int(share * len(ranked)), 1)]
            index = [easiest[i] for i in torch.randperm(len(easiest), generator=one.rng).tolist()]
            return [index[at : at + one.batch_size] for at in range(0, len(index), one.batch_size)]

        student = setup.models["student"].module
        train = setup.optim({"student": student}, clip=1.0, schedule="cosine")
        feeds = {"train": setup.feed("train", order=order)}
        yield Phase("read", lambda s: iter([Update({"task": s.task()})]), feeds, [train], setup.epochs)


def make(folder, records, **given):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Model(Reader(), ("page", "before"), name="reader")
    data = LabelDocuments(LabelOptions()).open(records, Pages(0))
    return training(
        Curriculum(CurriculumOptions()), {"student": model}, data, folder, task=Reading(None), epochs=4, batch_size=6,
        optim={"lr": 0.01}, seed=6, **given,
    )  # fmt: skip


# passes of 1, 3, 5 and 5 batches, as the curriculum opens
KILLS = {0: [("read", 2), ("read", 7), ("read", 14)], 3: [("read", 5), ("read", 12)]}
