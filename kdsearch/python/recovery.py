"""Teaching a network that was cut what it knew before: a short distillation from the whole one, by AdamW and a cosine."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdsearch.engine.splits import Arranged
from kdsearch.errors import RefusedError
from kdsearch.kinds import IO, Batch, Field, Model, Task
from kdsearch.ops.seeding import seed_generators
from kdsearch.ops.undisturbed import undisturbed

BATCH, LR, TEMPERATURE = 64, 1e-3, 4.0


def recover(
    student: Model,
    teacher: Model,
    task: Task[Any],
    io: IO,
    data: Arranged,
    epochs: int,
    seed: int,
    said: Callable[[float, str], None],
    lr_scale: Mapping[str, float] | None = None,
) -> float:
    """Train all of the student in place on `train`, what came frozen, too; the last epoch's mean loss.

    lr_scale: weight name -> factor on its learning rate, as a plan has it; 0 = it stays as it is. All others have 1.

    The loss is the task's own plus what the teacher says: T^2 KL of the softened classes (Hinton et al., 2015) where an output is
    logits, else the mean squared difference in units of the teacher's spread; where positions count (`Task.counted`).

    Raises:
        RefusedError: the loss is not finite.
    """
    split, module, answers = data.split("train"), student.module, replace(io, outputs=task.answers(io))
    rng = torch.Generator().manual_seed(seed)
    groups: dict[float, list[nn.Parameter]] = {}
    for name, each in module.named_parameters():
        factor = (lr_scale or {}).get(name, 1.0)
        each.requires_grad_(factor > 0 and each.is_floating_point())
        if each.requires_grad:
            groups.setdefault(factor, []).append(each)
    optimizer = torch.optim.AdamW([{"params": each} for each in groups.values()], LR, weight_decay=0.01)
    n = len(split.ids)
    total, step, last = epochs * math.ceil(n / BATCH), 0, 0.0
    devices = sorted({each.get_device() for each in module.parameters() if each.is_cuda})
    module.train()
    with torch.random.fork_rng(devices):
        seed_generators(seed)  # of layers that draw, such as dropout
        for epoch in range(epochs):
            losses = []
            for ids in _batches(torch.randperm(n, generator=rng).tolist()):
                loss = _loss(student, teacher, task, answers, split.load(ids))
                if not torch.isfinite(loss):
                    raise RefusedError(f"recovery: the loss is {float(loss)} in epoch {epoch + 1}")
                for factor, group in zip(groups, optimizer.param_groups, strict=True):
                    group["lr"] = factor * LR * (1 + math.cos(math.pi * step / total)) / 2
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(module.parameters(), 5.0)
                optimizer.step()
                losses.append(float(loss.detach()))
                step += 1
            last = sum(losses) / max(len(losses), 1)
            said((epoch + 1) / epochs, f"recovery, epoch {epoch + 1} of {epochs}, loss {last:.4g}")
    module.eval()
    return last


def _batches(order: Sequence[int]) -> Iterator[Sequence[int]]:
    """Without a last one of one sample, of which a batch norm has no statistics; where there is no other sample, that one."""
    for at in range(0, len(order), BATCH):
        if len(order) == 1 or len(order) - at > 1:
            yield order[at : at + BATCH]


def _loss(student: Model, teacher: Model, task: Task[Any], answers: IO, batch: Batch) -> Tensor:
    with undisturbed(teacher.module, train=False):
        told = task.call(teacher, batch)
    out, counted = task.call(student, batch), task.counted(batch)
    missed = sum(_missed(answers.output(name), out[name], told[name], counted) for name in told)
    return task.loss(out, batch) + missed  # type: ignore[arg-type]


def _missed(field: Field, out: Tensor, told: Tensor, counted: Tensor | None) -> Tensor:
    if counted is not None or field.kind == "logits":
        out, told = (field.rows(each, counted) for each in (out, told))
    if field.kind == "logits":
        z_s, z_t = out / TEMPERATURE, told / TEMPERATURE
        return TEMPERATURE**2 * F.kl_div(z_s.log_softmax(1), z_t.log_softmax(1), log_target=True, reduction="batchmean")
    return F.mse_loss(out, told) / told.var().clamp_min(1e-12)


def noise(io: IO, n: int, seed: int) -> Batch:
    """n samples of noise in every input's range."""
    rng = torch.Generator().manual_seed(seed)
    return Batch(tuple(f"noise-{i}" for i in range(n)), {each.name: each.noise(n, rng) for each in io.inputs})
