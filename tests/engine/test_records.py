"""Records of data recipes: files, order, and recipes that break their promises."""

import json

import pytest

from kdsearch.engine.records import kept, make_records, read_records
from kdsearch.errors import ArtifactError, InterruptedRun, PluginError
from kdsearch.kinds import DataRecipe, NoOptions, Record


class Squares(DataRecipe[NoOptions]):
    chunk = 3

    def __init__(self, n=8, change=lambda record: record):
        super().__init__(NoOptions())
        self.n, self.change, self.calls = n, change, []

    def keys(self, source):
        return [f"k{i}" for i in range(self.n)]

    def make(self, keys, source, services):
        self.calls.append(list(keys))
        for key in keys:
            yield self.change(Record(key, {"square": int(key[1:]) ** 2}, "odd" if int(key[1:]) % 2 else ""))


class AtOnce(Squares):
    chunk = None


def make(recipe, file, **given):
    return make_records(recipe, None, None, file, **{"owner": "me", **given})


def test_chunks_records_and_order(tmp_path):
    recipe, seen = Squares(), []
    records = make(recipe, tmp_path / "r.jsonl", report=lambda done, of: seen.append((done, of)))
    assert recipe.calls == [["k0", "k1", "k2"], ["k3", "k4", "k5"], ["k6", "k7"]]
    assert [record.fields["square"] for record in records] == [i * i for i in range(8)]
    assert [record.key for record in kept(records)] == ["k0", "k2", "k4", "k6"]
    assert seen == [(i, 8) for i in range(1, 9)]
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert lines[0] == {"format": 1, "owner": "me", "recipe": "Squares"}
    assert lines[4] == {"key": "k3", "fields": {"square": 9}, "rejected": "odd"}
    assert list(read_records(tmp_path / "r.jsonl", "me").values()) == records


def test_more_keys_ask_only_for_the_new_ones(tmp_path):
    make(Squares(4), tmp_path / "r.jsonl")
    longer = Squares(9)
    assert make(longer, tmp_path / "r.jsonl") == make(Squares(9), tmp_path / "other.jsonl")
    assert longer.calls == [["k4", "k5", "k6"], ["k7", "k8"]]
    assert [record.key for record in make(Squares(2), tmp_path / "r.jsonl")] == ["k0", "k1"]


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_torn_end_is_made_again(cut, tmp_path):
    file = tmp_path / "r.jsonl"
    whole = make(Squares(), file)
    file.write_bytes(file.read_bytes()[:-cut])
    assert make(Squares(), file) == whole
    assert make(Squares(), file) == whole


@pytest.mark.parametrize("cut", [0, 5, 1000])
def test_a_recipe_that_makes_all_at_once_is_stored_whole_or_not(cut, tmp_path):
    file = tmp_path / "r.jsonl"
    whole = make(AtOnce(), file)
    data = file.read_bytes()
    file.write_bytes(data[: max(len(data) - cut, 0)])
    again = AtOnce()
    assert make(again, file) == whole
    assert again.calls == ([[f"k{i}" for i in range(8)]] if cut else [])


def test_a_torn_first_line_is_written_anew(tmp_path):
    file = tmp_path / "r.jsonl"
    file.write_text('{"format": 1, "own')
    whole = make(Squares(), file)
    again = Squares()
    assert make(again, file) == whole
    assert again.calls == []


def test_stop_keeps_what_was_made(tmp_path):
    asked = []
    with pytest.raises(InterruptedRun):
        make(Squares(), tmp_path / "r.jsonl", stop=lambda: asked.append(1) or len(asked) == 3)
    again = Squares()
    make(again, tmp_path / "r.jsonl")
    assert again.calls == [["k6", "k7"]]


def test_files_of_others_are_refused(tmp_path):
    file = tmp_path / "r.jsonl"
    make(Squares(), file)
    with pytest.raises(ArtifactError, match="records of another recipe"):
        make(Squares(), file, owner="you")
    file.write_text('{"format": 2, "owner": "me"}\n')
    with pytest.raises(ArtifactError, match=r"format 2\. Expected format 1"):
        make(Squares(), file)
    file.write_text('{"a": 1}\n')
    with pytest.raises(ArtifactError, match="holds no records"):
        make(Squares(), file)


@pytest.mark.parametrize(
    "line",
    [
        '["a"]',
        '{"key": 1, "fields": {}, "rejected": ""}',
        '{"key": "a", "fields": [], "rejected": ""}',
        '{"fields": {}}',
        '{"records": 7}',
        '{"records": [{"key": "a"}]}',
    ],
)
def test_a_line_that_is_no_record_is_named(line, tmp_path):
    file = tmp_path / "records.jsonl"
    file.write_text(f'{{"format": 1, "owner": "o", "recipe": "R"}}\n{line}\n')
    with pytest.raises(ArtifactError, match=r"records.jsonl: .*Delete it; the recipe starts anew") as caught:
        read_records(file, "o")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("recipe", "match"),
    [
        (Squares(change=lambda r: Record("k9", r.fields)), "made the record 'k9' where 'k0'"),
        (Squares(change=lambda r: Record(r.key, {"x": object()})), "no JSON"),
        (Squares(change=lambda r: Record(r.key, {"x": float("nan")})), "no JSON"),
    ],
)
def test_recipes_that_break_their_promise_are_named(recipe, match, tmp_path):
    with pytest.raises(PluginError, match=match):
        make(recipe, tmp_path / "r.jsonl")


@pytest.mark.parametrize("broken", ["too few", "too many", "twice"])
def test_one_record_a_key(broken, tmp_path):
    class Broken(Squares):
        def keys(self, source):
            return ["k0", "k0"] if broken == "twice" else super().keys(source)

        def make(self, keys, source, services):
            made = list(super().make(keys, source, services))
            return made[:-1] if broken == "too few" else [*made, made[-1]]

    match = {"too few": "no record for 'k2'", "too many": "'k2' where 'the end'", "twice": "the key 'k0' twice"}[broken]
    with pytest.raises(PluginError, match=match):
        make(Broken(), tmp_path / "r.jsonl")
