"""Stage 2, the training: the pruned network learns from what it was before the cut, with what `freezing` lets move."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from kdsearch.kinds import NoOptions, Phase, Procedure, Setup, Step, Update, uncut
from kdsearch_plugins.hierarchical_prune.losses import kd_feat, kd_out


class SelfRecovery(Procedure[NoOptions]):
    """One phase; terms `kd_out`, `kd_feat`, `task`, those whose constant is 0 left out. Of several networks each has its own."""

    def __init__(self, features: Mapping[str, Sequence[str]], weights: Mapping[str, float]) -> None:
        """features: role -> paths of what both networks have. weights: lambda_kd_out, lambda_kd_feat and lambda_task by term."""
        super().__init__(NoOptions())
        self.features = {role: [f"module:{path}" for path in paths] for role, paths in features.items()}
        self.constants = {name: value for name, value in weights.items() if value > 0}

    def phases(self, setup: Setup) -> Iterator[Phase]:
        roles = list(self.features)
        taps = {name: self.features[role] for role in roles for name in (role, uncut(role))} if self._reads() else {}
        weights = {self._name(role, term): value for role in roles for term, value in self.constants.items()}

        def step(s: Step) -> Iterator[Update]:
            yield Update(
                {self._name(role, term): value for role in roles for term, value in self._terms(s, role).items()}
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

    def _terms(self, s: Step, role: str) -> dict[str, Tensor]:
        student, teacher = s.run(role), s.run(uncut(role))
        outputs = [name for name in teacher if not name.startswith("module:")]
        found: dict[str, Tensor] = {}
        if "kd_out" in self.constants:
            found["kd_out"] = kd_out({name: student[name] for name in outputs}, teacher)
        if self._reads() and (term := kd_feat(student, teacher, self.features[role])) is not None:
            found["kd_feat"] = term
        if "task" in self.constants:
            found["task"] = s.pair(role, uncut(role)).task()
        return found
