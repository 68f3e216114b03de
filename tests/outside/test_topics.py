"""A student learns from a teacher that only writes, through a stored recipe: from YAML to verified files, killed and resumed."""

from __future__ import annotations

import shutil
import signal
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdsearch.errors import UnreachableError, UserError
from kdsearch.host import Host
from kdsearch.kinds import HIDDEN, DataRecipe, DataSource, NoOptions, Record, Services
from kdsearch.stages import search
from kdsearch.stages.run import run_stages
from kdsearch.store.artifacts import Store
from kdsearch.store.files import read_json, read_lines
from kdsearch.store.folder import Events, open_folder
from kdsearch.study import load_study
from kdsearch.training import job
from kdsearch.training.keys import seen_by
from kdsearch.training.materials import open_materials
from kdsearch.training.tools import Address, Progress, Tools
from kdsearch.verbs.commands import clean, plan
from kdsearch.verbs.run import run_study
from kdsearch.verbs.summary import summary_of
from tests.builtin.teachers.endpoint_server import serving
from tests.outside.conftest import HERE, ended, start
from tests.stages.tiny import settled

STUDY = HERE / "topics.yaml"
CHUNK = 8
TOPICS = ("sport", "kitchen", "weather")


@pytest.fixture(scope="module", autouse=True)
def _installed() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        yield


def asked(log: Path) -> list[str]:
    """Everything that the teacher was asked, in order."""
    return log.read_text(encoding="utf-8").splitlines() if log.exists() else []


def prepared(folder: Path, *sets: str, host: Host | None = None) -> tuple[Any, Any]:
    """The study's `prepare` in a folder: its facts, and the materials that students get."""
    from kdsearch.training.recipe_data import supplied

    host = host or Host.load()
    materials = open_materials(load_study(STUDY, host, sets=sets), host, folder)
    open_folder(folder)
    tools = Tools(Store(folder), Events(folder / "events.jsonl"), folder, Progress(False))
    made = run_stages(materials, tools, until="prepare")["prepare"]
    return made.facts, supplied(materials, made, tools.store)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[str]]:
    """Folder, result and what the teacher was asked."""
    folder = tmp_path_factory.mktemp("topics")
    host = Host.load()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEXTS_LOG", str(folder / "log"))
        result = run_study(load_study(STUDY, host), host, folder / "study", progress=False)
    return folder / "study", result, asked(folder / "log")


def test_a_student_of_a_text_teacher_is_exported_and_reported(
    finished: tuple[Path, dict[str, Any], list[str]],
) -> None:
    folder, result, prompts = finished
    (recipe,) = result["data"]["recipes"]
    n_labeled, n_train = result["data"]["labeled"], result["data"]["labeled"] + result["data"]["unlabeled"]
    assert recipe["records"] == n_train
    assert recipe["kept"] + sum(recipe["rejected"].values()) == n_train
    assert set(recipe["rejected"]) == {"no topic"}
    assert len(prompts) == len(set(prompts)) == n_train - n_labeled, "each text without a label once"
    assert recipe["cost"]["writer"] == {
        "calls": len(prompts),
        "prompt_tokens": sum(len(prompt.split()) for prompt in prompts),
        "tokens": sum(each["tokens"] for each in replies(folder)),
    }
    assert [row["format"] for row in result["exports"]] == ["onnx-fp32", "onnx-int8"]
    assert result["exports"][0]["parity_max_abs"] < 1e-4
    assert result["student"]["accuracy"] > result["baseline"]["accuracy"] + 0.15, (
        "the control has the given labels alone"
    )
    assert result["teacher"]["quality"] is None
    text = summary_of(result, folder)
    assert f"labelled: {recipe['kept']} of {n_train} records kept, {len(prompts)} calls of writer" in text
    page = (folder / "report" / "index.html").read_text()
    assert "Data recipes" in page
    assert f"{recipe['rejected']['no topic']} no topic" in page
    assert f"writer: {len(prompts)} calls" in page


def test_what_the_data_carry_lies_beside_the_files_and_in_their_cards(
    finished: tuple[Path, dict[str, Any], list[str]],
) -> None:
    folder, result, _ = finished
    words = read_json(folder / "export" / "topics-words.json")
    assert words == {"hash": "crc32", "values": 512, "length": 10}
    for row in result["exports"]:
        assert row["files"] == ["export/topics-words.json"]
        card = read_json(folder / row["path"].replace(".onnx", ".json"))
        assert card["facts"]["product"]["files"] == ["topics-words.json"]


def test_a_metric_is_measured_with_the_options_that_the_study_gives(
    finished: tuple[Path, dict[str, Any], list[str]],
) -> None:
    _, result, _ = finished
    host = Host.load()
    materials = open_materials(load_study(STUDY, host), host)
    assert materials.reported["ece"].options.bins == 5
    assert "ece" not in materials.metrics, "trainings do not depend on it"
    assert all(0 <= row["metrics"]["ece"] <= 1 for row in result["exports"])


def replies(folder: Path) -> list[dict[str, Any]]:
    (file,) = (folder / "texts").glob("writer-replies-*.jsonl")
    return [reply for line in read_lines(file) for reply in line["replies"]]


def test_killed_in_the_recipe_it_goes_on_to_the_same_end_and_asks_nothing_that_is_stored_again(
    finished: tuple[Path, dict[str, Any], list[str]], tmp_path: Path
) -> None:
    _, result, prompts = finished
    first, second = tmp_path / "first", tmp_path / "second"
    killed = start(STUDY, tmp_path / "study", TEXTS_LOG=str(first), TEXTS_KILL="61")
    _, err = killed.communicate()
    assert killed.returncode == -signal.SIGKILL, err
    (records,) = (tmp_path / "study" / "work").glob("records-*/records.jsonl")
    stored = len(read_lines(records)) - 1
    assert stored >= 60 - CHUNK
    again = ended(STUDY, tmp_path / "study", TEXTS_LOG=str(second))
    twice = Counter(asked(first)) & Counter(asked(second))
    assert twice.total() <= CHUNK
    assert set(asked(first)) | set(asked(second)) == set(prompts)
    assert len(replies(tmp_path / "study")) == len(prompts), "what was lost was not counted"
    assert settled(again) == settled(result)


def test_run_again_it_asks_nothing_and_clean_keeps_the_records(
    finished: tuple[Path, dict[str, Any], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, result, _ = finished
    assert clean(dir=folder)["removed"] == []
    monkeypatch.setenv("TEXTS_LOG", str(tmp_path / "log"))
    host = Host.load()
    study = load_study(STUDY, host, sets=["distill.epochs=1", "distill.controls=[]"])
    again = run_study(study, host, folder, progress=False)
    assert again["data"]["recipes"] == result["data"]["recipes"]
    assert asked(tmp_path / "log") == []


def test_a_manner_that_changes_no_reply_asks_nothing_and_another_teacher_all(
    finished: tuple[Path, dict[str, Any], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _, prompts = finished
    monkeypatch.setenv("TEXTS_LOG", str(tmp_path / "log"))
    shutil.copytree(folder, tmp_path / "study")
    facts, _ = prepared(tmp_path / "study", "teachers.writer.options={manner: kindly}")
    assert asked(tmp_path / "log") == []
    assert facts["recipes"][0]["cost"]["writer"]["calls"] == len(prompts)
    prepared(tmp_path / "study", "teachers.writer.options={wrong: 0.2}")
    assert asked(tmp_path / "log") == prompts


def test_recipes_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New texts beside the labelled ones, then those that are unlike one another: embedded once each."""
    monkeypatch.setenv("TEXTS_LOG", str(tmp_path / "log"))
    chain = "data.recipes=[{use: written, options: {each: 12}}, {use: novel, options: {alike: 0.8}}]"
    facts, materials = prepared(tmp_path / "study", chain)
    written, novel = facts["recipes"]
    n_labeled = written["records"] - 36
    assert written["kept"] + written["rejected"]["too short"] == written["records"]
    assert novel["records"] == written["kept"]
    assert novel["kept"] + novel["rejected"]["like another"] == novel["records"]
    assert asked(tmp_path / "log").count("embed") == written["kept"]
    train = materials.data.split("train")
    batch = train.load(range(len(train.ids)))
    assert len(train.ids) == novel["kept"]
    own = [i for i, each in enumerate(train.ids) if each.startswith("text-")]
    new = [i for i, each in enumerate(train.ids) if not each.startswith("text-")]
    assert 0 < len(own) <= n_labeled
    assert all(train.ids[i].startswith(TOPICS[int(batch["label"][i])]) for i in new)
    given = materials.given.split("train")
    place = {each: i for i, each in enumerate(given.ids)}
    assert given.load([place[train.ids[i]] for i in own])["tokens"].equal(batch["tokens"][own])
    assert int(batch["mask"][new].sum(1).min()) >= 7
    before = asked(tmp_path / "log")
    prepared(tmp_path / "study", chain)
    prepared(tmp_path / "study", chain.replace("0.8", "0.9"))
    assert asked(tmp_path / "log") == before, "another threshold asks no text and embeds none again"


def test_an_endpoint_that_goes_down_pauses_the_study_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replies, counts and the key: sent, and in no file."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("OWN_KEY", "sk-not-to-be-seen")

    def answer(path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        text = body["messages"][-1]["content"]
        said = max(TOPICS, key=text.count)
        return {
            "choices": [{"message": {"content": said}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 1},
        }

    with serving() as server:
        server.answer = answer
        options = (
            f"{{base_url: '{server.url}', model: m, key_env: OWN_KEY, retries: 1, backoff_s: 0.0, concurrency: 1}}"
        )
        teacher = f"teachers={{writer: {{use: http, options: {options}}}}}"
        calls = iter(range(1000))
        server.on_request = lambda: server.next.extend([(503, b"gone", {})] * 2) if next(calls) == 50 else None
        with pytest.raises(UnreachableError, match="gave no answer in 2 tries, at last: status 503: gone"):
            prepared(tmp_path / "study", teacher)
        server.on_request, before = lambda: None, [body["messages"][-1]["content"] for _, body, _ in server.asked]
        facts, _ = prepared(tmp_path / "study", teacher.replace("retries: 1", "retries: 2"))
        after = [body["messages"][-1]["content"] for _, body, _ in server.asked][len(before) :]
        assert len(set(before) | set(after)) == 180
        assert set(before) & set(after) == {before[-1]}, "the one that failed"
        assert facts["recipes"][0]["cost"]["writer"] == {"calls": 180, "prompt_tokens": 9 * 180, "tokens": 180}
        assert all(headers["Authorization"] == "Bearer sk-not-to-be-seen" for _, _, headers in server.asked)
    files = [file.read_bytes() for file in (tmp_path / "study").rglob("*") if file.is_file()]
    assert not any(b"sk-not-to-be-seen" in each for each in files)


def test_a_small_model_writes_behind_an_endpoint_what_it_writes_at_hand(tmp_path: Path) -> None:
    """`tiny`, trained on the spot on texts of this kind: the same records from it, and from a local server that runs it."""
    import torch
    from kdsearch_texts.topics import sentence

    from kdsearch.builtin.teachers.tiny import Tiny, TinyOptions
    from kdsearch.engine.setup import Site

    rng = torch.Generator().manual_seed(0)
    lines = [f"write: {topic} number {i % 6} {sentence(topic, 9, 0.9, rng)}" for i in range(40) for topic in TOPICS]
    (tmp_path / "texts.txt").write_text("\n".join(lines))
    options = {"path": str(tmp_path / "texts.txt"), "steps": 80, "width": 48}
    recipe = "data.recipes=[{use: written, options: {each: 6}}]"
    own, here = prepared(tmp_path / "one", f"teachers={{writer: {{use: tiny, options: {options}}}}}", recipe)
    writer = Tiny(TinyOptions(**options)).writer(Site(seed=here.seed, base=tmp_path))

    def answer(path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        asked = (1, body["temperature"], body["stop"], body["seed"], body["max_tokens"])
        ((reply,),) = writer.write([body["messages"][-1]["content"]], *asked)
        usage = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.tokens}
        return {"choices": [{"message": {"content": reply.text}, "finish_reason": reply.finish}], "usage": usage}

    with serving() as server:
        server.answer = answer
        endpoint = f"teachers={{writer: {{use: http, options: {{base_url: '{server.url}', model: tiny}}}}}}"
        served, there = prepared(tmp_path / "two", endpoint, recipe)
        assert len(server.asked) == 18
    assert served["recipes"][0]["cost"]["writer"]["calls"] == 18
    assert {**served["recipes"][0], "key": ""} == {**own["recipes"][0], "key": ""}
    one, two = (each.data.split("train") for each in (here, there))
    assert list(one.ids) == list(two.ids)
    texts = [split.load(range(len(split.ids))).texts["text"] for split in (one, two)]
    assert texts[0] == texts[1]
    fresh = [text for sample, text in zip(one.ids, texts[0], strict=True) if sample.partition("-")[0] in TOPICS]
    assert fresh, "it wrote something that is long enough"


@pytest.mark.parametrize(
    ("sets", "match"),
    [
        ("data.recipes=[{use: labeled}]", r"data.recipes\[0\].use: unknown data recipe 'labeled'; did you mean 'labelled'"),
        ("data.recipes=[{use: labelled, options: {lm: writer}}]", r"options.lm: unknown option 'lm'; did you mean 'llm'"),
        ("data.recipes=[{use: labelled, options: {llm: main}}]", r"options.llm: unknown teacher 'main'. Expected writer"),
        ("teachers={writer: {use: trained, options: {space: mlp}}}", r"options.llm: teacher 'writer' \('trained'\) writes no text"),
        ("data.recipes=[{use: written, options: {each: 0}}]", r"options.each: got 0"),
        ("recipe.distillers=[{use: kd, teacher: writer}]", r"needs LOGITS of the teacher; 'labeller' .* gives TEXT"),
    ],
)  # fmt: skip
def test_a_wrong_recipe_is_refused_before_anything_is_asked(sets: str, match: str) -> None:
    with pytest.raises(UserError, match=match) as error:
        load_study(STUDY, Host.load(), sets=[sets])
    assert error.value.exit_code == 2


class Own(DataRecipe[NoOptions]):
    """Does what `does` says for each key of the training samples."""

    does: Any = None

    def keys(self, source: DataSource) -> list[str]:
        return list(source.split("train").ids)

    def make(self, keys: Sequence[str], source: DataSource, services: Services) -> list[Record]:
        return [type(self).does(key, source, services) for key in keys]


def asks(key: str, source: DataSource, services: Services) -> Record:
    services.writer("writer")
    return Record(key, {})


def peeps(key: str, source: DataSource, services: Services) -> Record:
    source.split("test")
    return Record(key, {})


def leaves(key: str, source: DataSource, services: Services) -> Record:
    raise SystemExit(0)


@pytest.mark.parametrize(
    ("does", "match"),
    [
        (lambda key, *_: Record(key, {}, "dull"), r"recipe 'own' keeps none of 195 records \(195 dull\)"),
        (lambda key, *_: Record(key, {"label": 3}), r"cannot be trained on: label 3 of sample 'text-\d+'"),
        (
            lambda key, *_: Record(key, {"label": [0, 1]}),
            r"field 'label' of record 'text-\d+' is 2. Expected one number",
        ),
        (
            lambda key, *_: Record(key, {"label": "sport"}),
            r"field 'label' of record 'text-\d+' is 'sport'. Expected numbers",
        ),
        (lambda key, *_: Record(key, {"label": 0.5}), r"field 'label' of record 'text-\d+' is 0.5. Expected numbers"),
        (lambda key, *_: Record(key + "x", {}), r"made the record 'text-\d+x' where 'text-\d+' was asked for"),
        (lambda key, *_: {}[key], r"recipe 'own' failed: KeyError: 'text-\d+' \(in <lambda>, test_topics.py:\d+\)"),
        (leaves, r"recipe 'own' failed: SystemExit"),
        (asks, r"no text teacher 'writer' here. Expected one that an option of type TextTeacher"),
        (peeps, r"a data recipe asked for the test split"),
    ],
)
def test_a_recipe_that_breaks_its_promise_is_named_by_the_studys_key(does: Any, match: str, tmp_path: Path) -> None:
    own = type("Own", (Own,), {"does": staticmethod(does)})
    host = Host.load().with_classes({("data_recipe", "own"): own})
    with pytest.raises(UserError, match=match) as error:
        prepared(tmp_path / "study", "data.recipes=[{use: own}]", host=host)
    assert error.value.path == "data.recipes[0]"
    assert error.value.exit_code == 2


def test_a_job_sees_what_the_recipe_made(finished: tuple[Path, dict[str, Any], list[str]]) -> None:
    folder, result, _ = finished
    key = read_json(folder / "last.json")["prepare"]["key"]
    address = Address(str(folder), str(HERE), prepared=key)
    materials = job.open_job(address)
    labels = materials.data.split("train").labels
    assert len(labels) == result["data"]["recipes"][0]["kept"]
    assert int((labels == HIDDEN).sum()) == 0
    assert materials.data.split("test").ids == materials.given.split("test").ids
    spec = read_lines(folder / "candidates.jsonl")[0]["spec"]
    seen = seen_by(search, materials)
    (row,) = search.score_job(vars(replace(address, stage=seen.stage, reads=seen.reads)), "student", [spec])
    assert row["scores"]["params"] > 0


def test_plan_counts_records_and_asks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEXTS_LOG", str(tmp_path / "log"))
    host = Host.load()
    found = plan(study=load_study(STUDY, host), host=host)
    assert found["recipes"] == [{"use": "labelled", "records": 195, "chunk": CHUNK}]
    assert "labelled: 195 records" in found["text"]
    assert asked(tmp_path / "log") == []
