"""The live step: shared passes, taps, writes, teachers' stored rows."""

import pytest
import torch
from torch import nn

from kdsearch.builtin.classification import Classification, ClassificationOptions
from kdsearch.engine.cache import Live, TeacherCache, write_cache
from kdsearch.engine.step import Cast, LiveStep
from kdsearch.errors import TapError
from kdsearch.kinds import Batch, Clock, Model, Tap, traced_taps
from kdsearch.kinds.forward import run_model
from kdsearch.testing.training import training
from tests.engine.little import Plain, images, mlp, resnet, source

TASK, CPU = Classification(ClassificationOptions()), torch.device("cpu")
IMAGES = TASK.io(source().fields, source().facts)


def batch(n=6, seed=0):
    return Batch(tuple(f"train-{i:05d}" for i in range(n)), images(n, seed))


def live(models, taps=None, teachers=None, cached=False, given=None):
    lives = {
        role: each if isinstance(each, Live) else Live(each, TASK, None) for role, each in (teachers or {}).items()
    }
    cast = Cast(TASK, IMAGES, models, lives, taps or {}, CPU)
    one = given or batch()
    return LiveStep(cast, {"train": one}, one, torch.Generator(), Clock(0, 0, 0.0, 1), cached)


def counted(model):
    calls = []
    model.module.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_a_pass_runs_once_until_weights_move():
    model = mlp()
    calls = counted(model)
    step = live({"student": model})
    assert step.student["logits"] is step.run("student")["logits"]
    step.task()
    assert len(calls) == 1
    step.forget()
    assert step.student["logits"].shape == (6, 3)
    assert len(calls) == 2


def test_what_was_read_without_gradients_is_run_again_where_they_are_needed():
    model, frozen = mlp(), mlp(1)
    frozen.module.requires_grad_(False)
    calls = counted(model), counted(frozen)
    step = live({"student": model, "other": frozen})
    with torch.no_grad():
        constant = step.student["logits"]
        assert step.run("student")["logits"] is constant
    learnt = step.student["logits"]
    assert learnt.requires_grad
    assert torch.equal(learnt, constant)
    with torch.no_grad():
        assert step.student["logits"] is learnt, "no third pass"
        outputs = step.run("other")
    assert step.run("other") is outputs, "nothing of it is trained"
    assert [len(each) for each in calls] == [2, 1]
    image = step.batch["image"].clone().requires_grad_()
    given = step.batch.having(image=image)
    with torch.no_grad():
        step.run("other", given)
    assert torch.autograd.grad(step.run("other", given)["logits"].sum(), image)[0].abs().sum() > 0


def test_each_made_batch_has_its_own_pass():
    """Batches that are made, used and freed one after the other may get one another's address."""
    step = live({"student": mlp()})
    means = [
        step.run("student", step.batch.having(image=torch.full((6, 1, 6, 6), float(k))))["logits"] for k in range(20)
    ]
    for k, logits in enumerate(means):
        expected = step.cast.models["student"].module(torch.full((6, 1, 6, 6), float(k)))
        assert torch.equal(logits, expected)


def test_taps_by_negative_index_and_glob_and_unasked_ones():
    step = live({"student": resnet()}, {"student": ["stage[-1]", "module:stages.0.0.bn1"]})
    assert step.student["stage[-1]"] is step.student["stage[1]"]
    assert step.student["stage[1]"].shape == (6, 6, 3, 3)
    assert step.student["module:stages.0.0.bn1"].shape == (6, 4, 6, 6)
    with pytest.raises(KeyError, match="was not asked for"):
        step.student["stage[0]"]


class Embed(nn.Module):
    """Images (B, 2, 2, 3) -> a token of ones and, row by row, the 6 pixels' tokens of width 2."""

    def forward(self, image):
        return torch.cat([image.new_ones(len(image), 1, 2), image.flatten(2).mT], 1)


def test_a_map_of_tokens_is_read_and_written_on_its_grid():
    taps = (Tap("stage[0]", "0", "map", (2, 2, 3), 1, (2, 3)), Tap("tokens[0]", "0", "tokens", (7, 2)))
    model = Model(nn.Sequential(Embed(), nn.Flatten()), ("image",), taps)
    image = torch.randn(6, 2, 2, 3, generator=torch.Generator().manual_seed(0))
    step = live({"student": model}, {"student": ["stage[0]", "tokens[0]"]}, given=batch().having(image=image))
    assert torch.equal(step.student["stage[0]"], image)
    assert torch.equal(step.student["tokens[0]"][:, 1 + 4], image[:, :, 1, 1])  # row by row, after the first token
    written = step.run("student", writes={"stage[0]": lambda each: 3 * each.flip(3)})
    assert torch.equal(written["tokens[0]"][:, 0], torch.ones(6, 2))
    assert torch.equal(written["tokens[0]"][:, 1:].mT.reshape(6, 2, 2, 3), 3 * image.flip(3))
    assert torch.equal(written["logits"], written["tokens[0]"].flatten(1))


def test_what_follows_a_tap_can_be_differentiated_by_it():
    """Also before an in-place layer, as everywhere in this network."""
    model = resnet(seed=1)
    taps = ["stage[0]", "module:stages.0.0.bn1", "penultimate"]
    out = run_model(model, TASK, batch(), taps)
    grads = torch.autograd.grad(out["logits"].square().sum(), [out[tap] for tap in taps])
    wanted = 2 * out["logits"] @ model.module.classifier.weight
    torch.testing.assert_close(grads[2], wanted)
    assert all(bool((grad != 0).any()) for grad in grads)


def test_a_tap_before_an_in_place_layer_is_what_it_was_there():
    """`bn1` of a residual block is followed by ReLU(inplace=True)."""
    model = resnet()
    model.module.eval()
    out = run_model(model, TASK, batch(), ["module:stages.0.0.bn1"])["module:stages.0.0.bn1"]
    block = model.module.stages[0][0]
    stem = torch.relu(model.module.stem(batch()["image"]))
    assert torch.allclose(out, block.bn1(block.conv1(stem)), atol=1e-6)
    assert out.min() < 0
    out.sum().backward()
    assert block.conv1.weight.grad is not None


class Overwrites(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(36, 3)

    def forward(self, image):
        return self.first(image.flatten(1)).relu_()


def test_a_tap_that_is_overwritten_by_a_function_is_an_error():
    model = Model(Overwrites(), ("image",), name="overwrites")
    with pytest.raises(TapError, match="tap 'module:first' of 'overwrites' is changed in place"):
        run_model(model, TASK, batch(), ["module:first"])


def test_writes_replace_outputs_inputs_and_elements_and_leave_no_hook():
    class Pair(nn.Module):
        def forward(self, x):
            return x, 2 * x

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair, self.last = Pair(), nn.Linear(36, 3)

        def forward(self, image):
            a, b = self.pair(image.flatten(1))
            return self.last(a + b)

    from dataclasses import replace

    net = Net()
    taps = traced_taps(net, [torch.zeros(1, 1, 6, 6)], {"last_in": "last"}, {"last_in": "input"})
    second = replace(taps[0], name="second", path="pair", side="output", index=1)
    model = Model(net, ("image",), (*taps, second))
    x = batch()["image"].flatten(1)
    step = live({"student": model}, {"student": ["last_in", "second"]})
    plain = step.run("student")
    assert torch.equal(plain["second"], 2 * x)
    assert torch.equal(plain["last_in"], 3 * x)
    written = step.run("student", writes={"second": lambda b: b * 0})
    assert torch.equal(written["last_in"], x)
    assert torch.equal(written["second"], 0 * x)  # a tap that is written is recorded as written
    assert torch.allclose(written["logits"], net.last(x))
    assert torch.allclose(step.run("student", writes={"last_in": lambda b: b * 2})["logits"], net.last(6 * x))
    assert step.run("student") is plain  # runs with writes are not shared
    with pytest.raises(ZeroDivisionError):
        step.run("student", writes={"second": lambda b: 1 / 0})
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_an_identity_write_changes_no_bit_and_a_mask_of_0_is_finite():
    model = resnet()
    model.module.eval()
    step = live({"student": model}, {})
    same = step.run("student", writes={"stage[1]": lambda f: f})["logits"]
    assert torch.equal(same, step.run("student")["logits"])
    cut = step.run("student", writes={"stage[1]": lambda f: f * 0})["logits"]
    assert torch.equal(cut, model.module.classifier.bias.expand(6, -1))


def test_stored_rows_are_the_teachers_and_used_only_where_valid(tmp_path):
    teacher, data = resnet(1), source()
    facts = write_cache(tmp_path, Live(teacher, TASK, None), data, ["train", "val"], ["stage[1]"], CPU, 10**9)
    assert facts == {"cached": ["logits", "stage[1]"], "too_large": [], "untied": [], "samples": 52, "draws": False}
    calls = counted(teacher)
    held = Live(teacher, TASK, TeacherCache(tmp_path))
    given = data.split("train").load([5, 3, 30])
    step = live({"student": resnet()}, {"teacher": ["stage[-1]"]}, {"teacher": held}, cached=True, given=given)
    out = step.teacher
    assert calls == []
    with torch.no_grad():
        expected = run_model(teacher, TASK, given, ["stage[1]"])
    for name in ("logits", "stage[1]"):
        assert torch.allclose(out[name], expected[name], atol=1e-6)
    calls.clear()
    mixed = step.on(given.having(image=-given["image"]))
    assert not torch.allclose(mixed.teacher["logits"], expected["logits"])
    assert len(calls) == 1
    stranger = Batch(("elsewhere-0",), {name: tensor[:1] for name, tensor in given.tensors.items()})
    assert live({}, {}, {"teacher": held}, cached=True, given=stranger).teacher["logits"].shape == (1, 3)
    assert len(calls) == 2


def test_taps_that_are_too_large_are_left_out(tmp_path):
    facts = write_cache(
        tmp_path, Live(resnet(1), TASK, None), source(), ["train"], ["stage[0]", "stage[1]"], CPU, 40 * 54 * 4
    )
    assert facts["too_large"] == ["stage[0]"]
    assert facts["cached"] == ["logits", "stage[1]"]


@pytest.mark.parametrize(("changes", "calls_itself"), [(False, False), (True, False), (False, True)])
def test_rows_are_stale_where_the_task_prepares_what_teachers_read(changes, calls_itself, tmp_path):
    """The input, or a field more where the task calls models in its own way and may read that."""

    class Noisy(Classification):
        def prepare(self, batch, rng):
            noise = torch.randn(batch["image"].shape, generator=rng)
            return batch.having(image=batch["image"] + noise) if changes else batch.having(noise=noise)

    class Adds(Noisy):
        def call(self, model, batch):
            return {"logits": model.module(batch["image"] + batch.tensors.get("noise", 0.0))}

    def step(s):
        from kdsearch.kinds import Update

        s.teacher["logits"]
        yield Update({"task": s.task()})

    teacher, task, data = resnet(1), (Adds if calls_itself else Noisy)(ClassificationOptions()), source()
    write_cache(tmp_path / "cache", Live(teacher, task, None), data, ["train"], [], CPU, 10**9)
    run = training(
        Plain(step), {"student": mlp()}, data, tmp_path, teachers={"teacher": teacher}, task=task, batch_size=20
    )
    run.setup.teachers["teacher"].cache = TeacherCache(tmp_path / "cache")
    calls = counted(teacher)
    run.run()
    assert len(calls) == (2 if changes or calls_itself else 0)


def test_copies_are_what_a_tap_was_whatever_is_written_over_it():
    class Overwriting(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Flatten()

        def forward(self, image):
            return self.first(image - 1.0).relu_()[:, :3]

    net = Overwriting()
    model = Model(net, ("image",), traced_taps(net, [torch.zeros(1, 1, 6, 6)], {"stage[0]": "first"}))
    with torch.no_grad():
        found = run_model(model, TASK, batch(), ["stage[0]"], copies=True)
        assert torch.equal(found["stage[0]"], batch()["image"].flatten(1) - 1.0)
        with pytest.raises(TapError, match="changed in place"):
            run_model(model, TASK, batch(), ["stage[0]"])
