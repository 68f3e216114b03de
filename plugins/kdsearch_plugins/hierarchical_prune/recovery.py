"""Stage 2, the training: the pruned network learns from what it was before the cut, with what `freezing` lets move."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kdsearch.kinds import NoOptions, Phase, Procedure, Setup, Step, Update, uncut
from kdsearch_plugins.hierarchical_prune.losses import kd_feat, kd_out

SAMPLES, CHUNK = 512, 32  # that the deviations of answers are of, and of which at once


class SelfRecovery(Procedure[NoOptions]):
    """One phase; terms `kd_out`, `kd_feat`, `task`, those whose constant is 0 left out. Of several networks each has its own.

    Values are compared in deviations, and no position counts that the task leaves out, such as padding.
    """

    def __init__(self, features: Mapping[str, Sequence[str]], weights: Mapping[str, float]) -> None:
        """features: role -> paths of what both networks have. weights: lambda_kd_out, lambda_kd_feat and lambda_task by term."""
        super().__init__(NoOptions())
        self.features = {role: [f"module:{path}" for path in paths] for role, paths in features.items()}
        self.constants = {name: value for name, value in weights.items() if value > 0}

    def phases(self, setup: Setup) -> Iterator[Phase]:
        roles = list(self.features)
        taps = {name: self.features[role] for role in roles for name in (role, uncut(role))} if self._reads() else {}
        weights = {self._name(role, term): value for role in roles for term, value in self.constants.items()}
        units = {role: units_of(setup, role) for role in roles} if "kd_out" in self.constants else {}

        def step(s: Step) -> Iterator[Update]:
            yield Update(
                {
                    self._name(role, term): value
                    for role in roles
                    for term, value in self._terms(s, role, setup, units.get(role, {})).items()
                }
            )

        trained: dict[str, Any] = {role: setup.models[role].module for role in roles}
        yield Phase(
            "recover",
            step,
            {"train": setup.feed("train")},
            [setup.optim(trained)],
            setup.epochs,
            weights=weights,
            taps=taps,
            score=roles,
        )

    def _name(self, role: str, term: str) -> str:
        return term if len(self.features) == 1 else f"{role}.{term}"

    def _reads(self) -> bool:
        return "kd_feat" in self.constants

    def _terms(self, s: Step, role: str, setup: Setup, units: Mapping[str, Tensor]) -> dict[str, Tensor]:
        student, teacher = s.run(role), s.run(uncut(role))
        outputs = [name for name in teacher if not name.startswith("module:")]
        answers = {each.name for each in setup.task.answers(setup.io)}
        counted = setup.task.counted(s.batch)

        def rows(of: Mapping[str, Tensor], name: str) -> Tensor:
            value = of[name] / units[name].to(of[name].device) if name in units else of[name]
            return s.rows(value, name) if counted is not None and name in answers else value

        found: dict[str, Tensor] = {}
        if "kd_out" in self.constants:
            found["kd_out"] = kd_out(
                {name: rows(student, name) for name in outputs}, {name: rows(teacher, name) for name in outputs}
            )
        if self._reads():
            h_s, h_t = (
                {name: at_counted(each[name], counted) for name in self.features[role]} for each in (student, teacher)
            )
            if (term := kd_feat(h_s, h_t, self.features[role])) is not None:
                found["kd_feat"] = term
        if "task" in self.constants:
            found["task"] = s.pair(role, uncut(role)).task()
        return found


def at_counted(h: Tensor, counted: Tensor | None) -> Tensor:
    """(N, D) of (B, T, D) at the places (B, T) that count; any other h as it is."""
    if counted is None or h.ndim != 3 or h.shape[:2] != counted.shape:
        return h
    return h[counted.to(h.device, torch.bool)]


def units_of(setup: Setup, role: str) -> dict[str, Tensor]:
    """Of outputs that are values their deviations (D,): in these errors of 80,000 dollars and of half a room weigh the same.

    Those of the training data, else those of the uncut network's answers to some of them.
    """
    known = {each.name: each for each in setup.io.outputs}
    values = [known[name] for name in setup.models[role].outputs if name in known and known[name].kind == "value"]
    found = {each.name: torch.tensor(each.std) for each in values if each.std}
    if left := [each.name for each in values if not each.std]:
        split = setup.data.split("train")
        at = torch.randperm(len(split.ids), generator=setup.rng("units of values"))[:SAMPLES].tolist()
        parts = [setup.predict(uncut(role), split.load(at[i : i + CHUNK])) for i in range(0, len(at), CHUNK)]
        for name in left:
            std = torch.cat([each[name].cpu() for each in parts]).double().std(0, unbiased=False).float()
            found[name] = torch.where(std > 0, std, 1.0)
    return found
