"""A storage as a dashboard sees it: nothing in it can be changed, and several objectives have curves, too."""

from __future__ import annotations

import copy
import json
from collections.abc import Container, Sequence
from typing import Any, NoReturn

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from kdsearch.search.trials import CURVES

PLOT = "dashboard:plot_data:curves:0"  # as `optuna_dashboard.save_plotly_graph_object` names a figure


class ReadOnlyError(RuntimeError):
    """Somebody wants to change what is shown."""


class Watched(BaseStorage):
    """Reads go to the storage behind, writes raise ReadOnlyError.

    optuna-dashboard draws intermediate values of single objectives alone; a study of several gets them here as a figure of its own.
    """

    def __init__(self, behind: BaseStorage) -> None:
        self._behind = behind

    def get_all_studies(self) -> list[FrozenStudy]:
        return [self._with_curves(each) for each in self._behind.get_all_studies()]

    def _with_curves(self, study: FrozenStudy) -> FrozenStudy:
        if len(study.directions) < 2:
            return study
        shown = copy.copy(study)
        figure = curves(self._behind.get_all_trials(study._study_id, deepcopy=False), study.user_attrs.get(CURVES, ""))
        shown.system_attrs = {**study.system_attrs, PLOT: json.dumps(figure)}
        return shown

    def get_study_id_from_name(self, study_name: str) -> int:
        return self._behind.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        return self._behind.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self._behind.get_study_directions(study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self._behind.get_study_user_attrs(study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._behind.get_study_system_attrs(study_id)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self._behind.get_trial(trial_id)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        return self._behind.get_all_trials(study_id, deepcopy, states)

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        return self._behind.get_best_trial(study_id)

    def remove_session(self) -> None:
        self._behind.remove_session()

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        _refuse()

    def delete_study(self, study_id: int) -> None:
        _refuse()

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        _refuse()

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        _refuse()

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        _refuse()

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        _refuse()

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        _refuse()

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        _refuse()

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        _refuse()

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        _refuse()


def _refuse() -> NoReturn:
    raise ReadOnlyError("the trials belong to the study; a dashboard changes nothing")


def curves(trials: Sequence[FrozenTrial], name: str) -> dict[str, Any]:
    """A plotly figure of the trials' intermediate values, a line each: per cent of the training -> the objective `name`."""
    lines = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": f"{each.number} ({each.state.name.lower()})",
            "x": [step / 10 for step in sorted(each.intermediate_values)],
            "y": [value for _, value in sorted(each.intermediate_values.items())],
            "opacity": 0.4 if each.state == TrialState.PRUNED else 1.0,
        }
        for each in trials
        if each.intermediate_values
    ]
    layout = {
        "title": {"text": f"{name or 'Intermediate values'} during the trials"},
        "xaxis": {"title": {"text": "% of a trial's training"}, "range": [0, 105]},
        "yaxis": {"title": {"text": name}},
        "showlegend": True,
    }
    return {"data": lines, "layout": layout}
