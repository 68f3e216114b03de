"""Live objects: what is redone when one changes, what is reused, and what is refused with its reason."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime as ort
import pytest
import torch
from sklearn.metrics import f1_score
from torch import nn

import kdsearch
from kdsearch.errors import DataError, StudyError, TapError, UserError
from kdsearch.host import Host
from kdsearch.kinds import Distiller, Model, NoOptions, Options, traced_taps
from kdsearch.stages import distill, prepare, refine, search
from kdsearch.training.keys import part_of
from kdsearch.training.materials import open_materials
from kdsearch.training.opened import live_teacher
from tests.python.tiny_live import Digits, made, teacher, tiny


def parts(study):
    """What the first stages depend on."""
    materials = open_materials(study, Host.load())
    return {
        stage.NAME: json.dumps(part_of(stage, materials), sort_keys=True)
        for stage in (prepare, search, refine, distill)
    }


def made_of(study, folder, until="distill"):
    return made(open_materials(study, Host.load()), folder, until)


def facts(folder, stage):
    """Of the artifact that the folder's last run used."""
    key = json.loads((folder / "last.json").read_text())[stage]["key"]
    (found,) = (folder / "artifacts").glob(f"{stage}-{key}*")
    return json.loads((found / "artifact.json").read_text())["facts"]


def test_equal_teachers_are_one_and_other_weights_another():
    again = parts(tiny(teacher=teacher(0)))
    assert parts(tiny(teacher=teacher(0))) == again
    other = parts(tiny(teacher=teacher(1)))
    assert other["prepare"] != again["prepare"]
    assert other["search"] == again["search"]


def test_teachers_of_equal_weights_that_compute_differently_differ():
    plain, shifted = teacher(), teacher()
    shifted[1] = nn.Tanh()
    assert parts(tiny(teacher=plain))["prepare"] != parts(tiny(teacher=shifted))["prepare"]
    shifted[1] = nn.LeakyReLU(0.3)
    leaky = parts(tiny(teacher=shifted))["prepare"]
    shifted[1] = nn.LeakyReLU(0.1)
    assert leaky != parts(tiny(teacher=shifted))["prepare"]


@pytest.mark.parametrize("change", ["image", "label", "test"])
def test_a_changed_sample_redoes_prepare(change):
    train, test = Digits(), Digits(60, first=1500)
    before = parts(tiny(train=train, test=test))["prepare"]
    assert parts(tiny(train=Digits(), test=Digits(60, first=1500)))["prepare"] == before
    if change == "image":
        train.images[299, 0, 0, 0] += 0.5
    elif change == "label":
        train.targets[7] = (train.targets[7] + 1) % 10
    else:
        test.images[3, 0, 4, 4] += 0.5
    assert parts(tiny(train=train, test=test))["prepare"] != before


def test_random_transforms_disable_the_teachers_cache(tmp_path):
    noisy = tiny(train=Digits(noise=0.1))
    materials = open_materials(noisy, Host.load())
    assert materials.augments
    assert made_of(noisy, tmp_path, "prepare")["prepare"]["teachers"]["main"]["cache"] == ""
    with pytest.raises(UserError, match="cache 'on', but the data set augments"):
        kdsearch.run(tiny(train=Digits(noise=0.1), teacher={"use": teacher(), "cache": "on"}), tmp_path / "on")


def test_a_run_is_reused_and_a_new_teacher_redoes_it(tmp_path, capsys):
    first = kdsearch.run(tiny(), tmp_path, progress=False)
    assert first["student"]["params"] <= 20_000
    assert (tmp_path / first["exports"][0]["path"]).is_file()
    assert facts(tmp_path, "prepare")["teachers"]["main"]["cached"]["cached"] == ["logits"]
    made = {each.name for each in (tmp_path / "artifacts").iterdir()}
    assert kdsearch.run(tiny(), tmp_path, progress=False) == first
    assert {each.name for each in (tmp_path / "artifacts").iterdir()} == made
    kdsearch.run(tiny(teacher=teacher(1)), tmp_path, progress=True)
    assert "the study has changed: redoing prepare" in capsys.readouterr().err
    assert len({each.name for each in (tmp_path / "artifacts").iterdir()} - made) == 7


def test_the_callers_teacher_and_random_streams_stay_as_they_are(tmp_path):
    own = teacher()
    own.train()
    weights = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    study = tiny(teacher=own)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    kdsearch.run(study, tmp_path, progress=False)
    assert torch.equal(torch.get_rng_state(), before)
    assert own.training
    assert all(parameter.requires_grad for parameter in own.parameters())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in own.state_dict().items())


def test_more_workers_are_refused_with_the_reason(tmp_path):
    with pytest.raises(UserError, match=r"run\.workers: 2 workers, but live objects \(data, teacher\)") as caught:
        kdsearch.run(tiny(), tmp_path / "a", workers=2, progress=False)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "a").exists()
    with pytest.raises(StudyError, match=r"run\.executor\.use: 'processes', but live objects \(data, teacher\)"):
        tiny(run={"executor": {"use": "processes"}})


def test_an_own_model_with_taps_lets_fitnet_work(tmp_path):
    net = teacher()
    example = torch.zeros(1, 1, 8, 8)
    taps = traced_taps(net, [example], {"early": "1", "late": "3"})
    model = Model(net, ("image",), taps, name="mine")
    recipe = [{"use": "fitnet", "options": {"teacher_tap": "late", "student_tap": "stage[1]"}}]
    about = made_of(tiny(teacher=model, recipe=recipe), tmp_path)["prepare"]["teachers"]["main"]
    assert about["architecture"] == "mine"
    assert about["cached"]["cached"] == ["late", "logits"]
    assert parts(tiny(teacher=Model(net, ("image",), taps[:1]))) != parts(tiny(teacher=Model(net, ("image",), taps)))


@pytest.mark.parametrize("tap", ["stage[-1]", "module:2"])
def test_taps_of_a_plain_module_are_found(tap, tmp_path):
    recipe = [{"use": "fitnet", "options": {"teacher_tap": tap, "student_tap": "stage[1]"}}]
    found = made_of(tiny(recipe=recipe), tmp_path)
    assert len(found["prepare"]["teachers"]["main"]["cached"]["cached"]) == 2
    history = found["distill"]["runs"]["winner-0"]["history"]
    assert history[-1]["terms"]["fitnet.hint"] > 0


@pytest.mark.parametrize(
    ("tap", "message"),
    [
        ("stage[7]", r"tap 'stage\[7\]': 'Sequential' has stage\[0\] \(6x8x8\), stage\[1\] \(12x4x4\), penultimate"),
        ("module:nothing*", "matches 0 modules of 'Sequential'"),
        ("module:4", r"tap 'module:4' of 'Sequential' is 192"),
    ],
)
def test_a_tap_that_is_not_there_says_what_is(tap, message, tmp_path):
    recipe = [{"use": "fitnet", "options": {"teacher_tap": tap, "student_tap": "stage[1]"}}]
    with pytest.raises(TapError, match=message):
        kdsearch.run(tiny(recipe=recipe), tmp_path, progress=False)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (nn.Conv2d(3, 4, 3), r"^teacher: teacher Conv2d cannot read image 1x8x8"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(64, 7)),
            r"^teacher: teacher Sequential answers 7 a sample. Expected 10",
        ),
        (3.0, r"teacher: got 3\.0\. Expected a module"),
    ],
)
def test_a_teacher_that_does_not_fit_says_so(wrong, message, tmp_path):
    with pytest.raises((DataError, StudyError), match=message):
        kdsearch.run(tiny(teacher=wrong), tmp_path, progress=False)


class Sharper(Options):
    power: float = 2.0


class MeanLogits(Distiller[Sharper]):
    """Mean squared distance of the logits."""

    def terms(self, step):
        return {"distance": (step.student["logits"] - step.teacher["logits"]).abs().pow(self.options.power).mean()}


def test_an_own_distiller_class_is_used(tmp_path):
    history = made_of(tiny(recipe=[MeanLogits]), tmp_path)["distill"]["runs"]["winner-0"]["history"]
    assert history[-1]["terms"]["MeanLogits.distance"] > 0


def test_a_changed_class_redoes_what_uses_it():
    before = parts(tiny(recipe=[MeanLogits]))
    changed = {"terms": lambda self, step: {"distance": step.student["logits"].mean()}}
    other = parts(tiny(recipe=[type("MeanLogits", (MeanLogits,), changed)]))
    assert other["refine"] != before["refine"]
    assert other["distill"] != before["distill"]
    assert other["search"] == before["search"]
    assert other["prepare"] == before["prepare"]


def test_own_classes_that_are_no_capability_of_that_kind_are_named():
    class Silent(Distiller[NoOptions]):
        """Says nothing."""

    with pytest.raises(UserError, match="Silent"):
        tiny(recipe={"procedure": {"use": Silent}})


def digits_as(task):
    """Digits and what the task learns of them."""
    train, test = Digits(120), Digits(40, first=1500)

    def of(data):
        images, labels = data.images, torch.as_tensor(data.targets)
        if task == "regression":
            return images, 100.0 + labels
        if task == "multilabel":
            return {"image": images, "labels": torch.stack([labels % 2, labels > 4, labels == 3], 1)}
        if task == "segmentation":
            return images, (images[:, 0] > 0.5).long()
        tokens = (images[:, 0] * 9).long().flatten(1)[:, :17]
        return {"tokens": tokens[:, :-1], "mask": torch.ones(len(tokens), 16), "next": tokens[:, 1:]}

    return of(train), of(test)


def judged(task, answers, given):
    """The task's first metric, from its definition."""
    truth = given[1].numpy() if isinstance(given, tuple) else given["next" if task == "causal_lm" else "labels"].numpy()
    if task == "regression":
        return np.sqrt(np.square(answers[:, 0] - truth).mean())
    if task == "multilabel":
        return f1_score(truth, answers > 0, average="macro", zero_division=0)
    if task == "segmentation":
        said = answers.argmax(1)
        return np.mean([((said == k) & (truth == k)).sum() / ((said == k) | (truth == k)).sum() for k in (0, 1)])
    apart = answers - answers.max(-1, keepdims=True)
    logs = apart - np.log(np.exp(apart).sum(-1, keepdims=True))
    return np.exp(-np.take_along_axis(logs, truth[..., None], -1).mean())


def head(task):
    torch.manual_seed(0)
    if task == "segmentation":
        return nn.Conv2d(1, 2, 3, padding=1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, {"regression": 1, "multilabel": 3}[task]))


@pytest.mark.parametrize("task", ["regression", "multilabel", "segmentation", "causal_lm"])
def test_every_target_that_samples_carry_is_learned(task, tmp_path):
    """The exported file's answers to the test samples, judged from scratch, are what the result says."""
    train, test = digits_as(task)
    text = {"space": "decoder", "spec": {"kind": "gru", "layers": 1, "width": 16}}
    study = tiny(
        train=train,
        test=test,
        task={"use": task},
        teacher=None if task == "causal_lm" else head(task),
        student=text if task == "causal_lm" else head(task),
        recipe={"distillers": [] if task == "causal_lm" else ["match"], "train": {"batch_size": 16}},
        distill={"epochs": 2, "controls": []},
    )
    result = kdsearch.run(study, tmp_path, progress=False)
    session = ort.InferenceSession(tmp_path / result["exports"][0]["path"])
    fields = {"image": test[0]} if isinstance(test, tuple) else test
    fed = {each.name: fields[each.name].numpy() for each in session.get_inputs()}
    (answers,) = session.run(None, fed)
    assert result["student"]["quality"]["value"] == pytest.approx(judged(task, answers, test), rel=1e-4)


def test_what_a_task_reads_beside_these_comes_from_a_data_set():
    given = {"train": {"image": Digits().images}, "test": None, "teacher": None, "recipe": []}
    study = tiny(**given, task={"use": "seq2seq"}, student="decoder")
    with pytest.raises(DataError, match="Live samples teach by label, labels, mask, next or target"):
        open_materials(study, Host.load())


def test_classes_that_the_samples_lack_are_said_in_the_options():
    few = Digits(60)
    keep = few.targets != 9
    pair = (few.images[keep], few.targets[keep])
    with pytest.raises(DataError, match=r"answers 10 a sample. Expected 9: .* say how many there are, in data.options"):
        prepare_of(tiny(train=pair, test=None, data={}))
    said = open_materials(tiny(train=pair, test=None, data={"options": {"classes": 10}}), Host.load())
    assert said.io.outputs[0].shape == (10,)
    with pytest.raises(StudyError, match=r"data.options.clases: unknown option .clases.; did you mean 'classes'"):
        tiny(train=pair, data={"options": {"clases": 10}})
    with pytest.raises(StudyError, match=r"teacher.options.width: unknown option"):
        tiny(teacher={"use": teacher(), "options": {"width": 3}})


def prepare_of(study):
    return live_teacher(open_materials(study, Host.load()), "main")


class Unsure(nn.Module):
    """NaN of bright images."""

    def __init__(self, least):
        super().__init__()
        self.net, self.least = teacher(), least

    def forward(self, image):
        return self.net(image).masked_fill(image.sum((1, 2, 3))[:, None] > self.least, torch.nan)


def test_a_teacher_that_answers_nan_is_named_before_anything_is_trained(tmp_path):
    bright = Digits().images.sum((1, 2, 3))
    least, n = float(bright.median()), int((bright > bright.median()).sum())
    with pytest.raises(DataError, match=rf"teacher: 'Unsure' answers NaN to {n} of 300 samples, the first 'train-"):
        made_of(tiny(teacher=Unsure(least)), tmp_path / "rows", "prepare")
    with pytest.raises(DataError, match="teacher: 'Unsure' answers NaN to 32 of 32 samples"):
        made_of(tiny(teacher=Unsure(-1e3), train=Digits(noise=0.1)), tmp_path / "none are stored", "prepare")


class Compared(nn.Module):
    """`left` against twice `right`."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, left, right):
        return self.left(left) - 2 * self.right(right)


@pytest.mark.parametrize(
    ("fields", "inputs"),
    [
        (("left", "right"), ("left", "right")),
        (("right", "left"), ("left", "right")),  # by name
        (("first", "right"), ("first", "right")),  # in order
        (("right", "first"), ("right", "first")),
    ],
)
def test_several_inputs_are_fed_by_name_where_the_arguments_have_exactly_theirs(fields, inputs, tmp_path):
    rng = torch.Generator().manual_seed(0)
    columns = {name: torch.randn(120, 6, generator=rng) for name in fields}
    with torch.no_grad():
        label = Compared()(*(columns[name] for name in inputs)).argmax(1)
    study = tiny(train={**columns, "label": label}, test=None, teacher=Compared(), student=Compared(), search={})
    materials = open_materials(study, Host.load())
    assert live_teacher(materials, "main").model.inputs == inputs
    built = materials.build_student("student", dict(materials.spaces["student"].region.fixed), 0)
    assert built.inputs == inputs
    assert made(materials, tmp_path, "prepare")["prepare"]["teachers"]["main"]["score"] == 1.0
