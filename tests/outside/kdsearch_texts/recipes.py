"""Recipes: labels for texts, texts for labels, and a choice among texts by their embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kdsearch_texts.topics import TOPICS
from pydantic import Field

from kdsearch.kinds import (
    HIDDEN,
    DataRecipe,
    DataSource,
    EmbeddingTeacher,
    Options,
    Record,
    Services,
    TextTeacher,
)


class LabelledOptions(Options):
    llm: TextTeacher = Field("writer", description="is asked for the topic")


class Labelled(DataRecipe[LabelledOptions]):
    """Every text of `train`: its own label where there is one, else what the teacher says. No topic, no sample."""

    chunk = 8

    def keys(self, source: DataSource) -> Sequence[str]:
        return list(source.split("train").ids)

    def make(self, keys: Sequence[str], source: DataSource, services: Services) -> Iterable[Record]:
        split = source.split("train")
        place = {sample: i for i, sample in enumerate(split.ids)}
        batch = split.load([place[key] for key in keys])
        unknown = [i for i, label in enumerate(batch["label"].tolist()) if label == HIDDEN]
        prompts = [f"topic: {batch.texts['text'][i]}" for i in unknown]
        said = dict(zip(unknown, services.writer(self.options.llm).write(prompts), strict=True))
        for i, key in enumerate(keys):
            if i not in said:
                yield Record(key, {"label": int(batch["label"][i])})
            elif (topic := said[i][0].text) in TOPICS:
                yield Record(key, {"label": TOPICS.index(topic)})
            else:
                yield Record(key, {"said": topic}, "no topic")


class WrittenOptions(Options):
    llm: TextTeacher = Field("writer", description="writes the texts")
    each: int = Field(20, gt=0, description="texts a topic")


class Written(DataRecipe[WrittenOptions]):
    """New texts for each topic, beside those that have a label."""

    chunk = 8

    def keys(self, source: DataSource) -> Sequence[str]:
        new = [f"{topic}-{i}" for topic in TOPICS for i in range(self.options.each)]
        return [*source.split("labeled").ids, *new]

    def make(self, keys: Sequence[str], source: DataSource, services: Services) -> Iterable[Record]:
        split = source.split("labeled")
        place = {sample: i for i, sample in enumerate(split.ids)}
        new = [key for key in keys if key not in place]
        prompts = [f"write: {key.partition('-')[0]} number {key.partition('-')[2]}" for key in new]
        replies = services.writer(self.options.llm).write(
            prompts, n=1, temperature=0.7, stop=("\n",), seed=1, max_tokens=64
        )
        texts = {key: first.text for key, (first, *_) in zip(new, replies, strict=True)}
        for key in keys:
            if key in place:
                batch = split.load([place[key]])
                yield Record(key, {"text": batch.texts["text"][0], "label": int(batch["label"][0])})
            else:
                short = "too short" if len(texts[key].split()) < 7 else ""
                yield Record(key, {"text": texts[key], "label": TOPICS.index(key.partition("-")[0])}, short)


class NovelOptions(Options):
    embedder: EmbeddingTeacher = Field("writer", description="says how alike texts are")
    alike: float = Field(0.95, gt=0, le=1, description="cosine to an earlier text from which on a text is left out")


class Novel(DataRecipe[NovelOptions]):
    """All at once: a text that is too like one before it is left out."""

    chunk = None

    def keys(self, source: DataSource) -> Sequence[str]:
        return list(source.split("train").ids)

    def make(self, keys: Sequence[str], source: DataSource, services: Services) -> Iterable[Record]:
        batch = source.split("train").load(range(len(keys)))
        rows = services.embed(self.options.embedder, batch.texts["text"])
        rows = rows / rows.norm(dim=1, keepdim=True)
        for i, key in enumerate(keys):
            alike = float((rows[:i] @ rows[i]).max()) if i else 0.0
            yield Record(key, {"label": int(batch["label"][i])}, "like another" if alike >= self.options.alike else "")
