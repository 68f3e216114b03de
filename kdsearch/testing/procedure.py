"""The contract of procedures, as tests: each one trains small networks on noise, which takes seconds.

# tests/test_my_procedure.py in your package; needs pytest
from kdsearch.testing.procedure import ProcedureContract
from my_package.procedure import MyProcedure


class TestMyProcedure(ProcedureContract):
    procedure = MyProcedure
    options = {"warmup": 1}  # as in a study's `options:`
"""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from kdsearch.deploy.parity import module_call
from kdsearch.engine.conduct import Report
from kdsearch.engine.loop import Training
from kdsearch.errors import InterruptedRun
from kdsearch.kinds import DataSource, Distiller, Metric, Model, Phase, Procedure, Split, Task
from kdsearch.kinds.options import validate
from kdsearch.testing.contract import noted, require, same
from kdsearch.testing.models import noise_batch, small_resnet
from kdsearch.testing.space import check_taps
from kdsearch.testing.training import TensorSource, training

CLASSES = 4


class ProcedureContract:
    """Inherit it as `TestX` and name the procedure; override models, teachers, distillers, data or task where it needs others."""

    procedure: ClassVar[type[Procedure[Any]]]
    options: ClassVar[Mapping[str, Any]] = {}
    epochs: ClassVar[int] = 2

    def source(self) -> DataSource:
        """With splits train, labeled, unlabeled, val and test."""
        sizes = {"train": 24, "labeled": 12, "unlabeled": 12, "val": 12, "test": 12}
        return TensorSource({name: noise_batch(n, CLASSES, seed=n) for name, n in sizes.items()}, n_classes=CLASSES)

    def models(self) -> dict[str, Model]:
        """Freshly made: equal ones at every call."""
        return {role: small_resnet(classes=CLASSES, seed=i) for i, role in enumerate(self.procedure.roles)}

    def teachers(self) -> dict[str, Model]:
        return {"teacher": small_resnet(classes=CLASSES, depth=2, seed=9)}

    def distillers(self) -> dict[str, Distiller[Any]]:
        return {}

    def task(self) -> Task[Any] | None:
        """None: the installed `classification`."""
        return None

    def metrics(self) -> dict[str, Metric[Any]]:
        """Those that it asks for by `setup.score`."""
        return {}

    def made(self) -> Procedure[Any]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.procedure(validate(self.procedure.options_class, self.options))

    def training(self, folder: Path, **changes: Any) -> Training:
        """One that is ready to run; `changes`: arguments of `testing.training.training`."""
        given: dict[str, Any] = {
            "teachers": self.teachers(),
            "distillers": self.distillers(),
            "task": self.task(),
            "weights": {"task": 1.0},
            "epochs": self.epochs,
            "batch_size": 8,
            "owner": type(self).__name__,
            **changes,
        }
        source = given.pop("source", None) or self.source()
        found = training(self.made(), self.models(), source, folder, **given)
        found.setup.fresh_of = lambda role, nth: self.models()[role]
        found.setup.metrics = {**found.setup.metrics, **self.metrics()}
        return found

    def trained(self, folder: Path, **changes: Any) -> tuple[Training, list[dict[str, Any]]]:
        run = self.training(folder, **changes)
        return run, run.run().history

    def test_roles_that_ship_are_trained(self) -> None:
        cls = self.procedure
        require(bool(cls.roles), "no role is trained")
        ships = self.made().shipped()
        require(bool(ships), "no role ships")
        require(len(set(cls.roles)) == len(cls.roles), f"a role is there twice: {', '.join(cls.roles)}")
        strange = [each for each in ships if each not in cls.roles]
        require(not strange, f"'{', '.join(strange)}' ships, and is none of the roles {', '.join(cls.roles)}")

    def test_training_moves_what_ships_and_no_teacher(self) -> None:
        with _folder() as folder:
            run = self.training(folder)
            teachers = {name: live.model.module for name, live in run.setup.teachers.items()}
            before = {name: _state(module) for name, module in teachers.items()}
            fresh = {role: _state(run.setup.models[role].module) for role in run.procedure.shipped()}
            run.run()
            for role, start in fresh.items():
                end = _state(run.setup.models[role].module)
                moved = any(name not in start or not same(start[name], value) for name, value in end.items())
                require(moved, f"'{role}' ships as it was made")
                lost = [name for name, value in end.items() if not bool(torch.isfinite(value).all())]
                require(not lost, f"'{role}' ends with values that are not finite: {', '.join(lost[:3])}")
            for name, module in teachers.items():
                require(_equal(before[name], _state(module)), f"teacher '{name}' is changed; it is a constant")

    def test_phases_leave_the_networks_that_it_says(self) -> None:
        """`adapt`'s, unless `grown` says others; and recovery after pruning, which begins at these, leaves them as they are."""
        with _folder() as folder, _folder() as other:
            run, again = self.training(folder), self.training(other, recovers=True)
            run.run()
            for role in run.procedure.shipped():
                with torch.random.fork_rng(devices=[]):
                    said = again.procedure.grown(role, again.setup.models[role], again.setup)
                again.setup.models[role] = said
            shapes = _shapes(again)
            require(_shapes(run) == shapes, "phases leave other networks than `grown` says; see `adapt` and `grown`")
            again.run()
            require(_shapes(again) == shapes, "the phases after pruning change networks again; see `recovery`")

    def test_terms_are_finite_and_epochs_are_told(self) -> None:
        with _folder() as folder:
            _, history = self.trained(folder)
        for row in history:
            require(bool(row["terms"]), f"phase '{row['phase']}' has no terms")
            for name, value in row["terms"].items():
                require(math.isfinite(value), f"term '{name}' of phase '{row['phase']}' is {value}")

    def test_phases_have_names_of_their_own(self) -> None:
        with _folder() as folder:
            run, found = self.training(folder), list[Phase]()
            _watched(run, found)
            run.run()
        names = [phase.name for phase in found]
        for name in names:
            plain = bool(name) and all(each.isalnum() or each in "-_." for each in name)
            require(plain, f"a phase is called '{name}': expected letters, digits, '-', '_' or '.'; it names a file")
        require(all(phase.epochs >= 1 for phase in found), "a phase has no epoch")

    def test_equal_seeds_end_alike(self) -> None:
        with _folder() as one, _folder() as other:
            torch.manual_seed(1)
            first, history = self.trained(one)
            torch.manual_seed(2)
            again, repeated = self.trained(other)
            require(history == repeated, "equal seeds give different losses")
            require(_equal(_end(first), _end(again)), "equal seeds end with different weights")

    def test_stopped_anywhere_it_goes_on_to_the_same_end(self) -> None:
        """Replayed: phases that are done are loaded, and what `phases` draws or sets up is what it was."""
        steps: list[int] = []
        with _folder() as folder:
            through, history = self.trained(folder, report=Report(step=lambda *_: steps.append(1)))
        for cut in sorted({1, len(steps) // 2, len(steps) - 1} - {0}):
            with _folder() as folder:
                stopped = self.training(folder, stop=_after(cut))
                with contextlib.suppress(InterruptedRun):
                    stopped.run()
                run, repeated = self.trained(folder)
                require(repeated == history, f"stopped after step {cut} of {len(steps)}, its losses are others")
                require(
                    _equal(_end(run), _end(through)),
                    f"stopped after step {cut} of {len(steps)}, it ends with other weights; see `setup.once`",
                )

    def test_the_test_split_is_not_read(self) -> None:
        source = _Spy(self.source())
        with _folder() as folder:
            self.trained(folder, source=source)
        require("test" not in source.read, "it reads the test split")

    def test_adapted_models_answer_the_task(self) -> None:
        with _folder() as folder:
            run = self.training(folder)
            io, task = run.setup.io, run.setup.task
            shapes = {
                role: {k: v.shape for k, v in _state(model.module).items()} for role, model in run.setup.models.items()
            }
            again = self.training(folder).setup.models
            batch = self.source().split("train").load([0, 1])
            for role in run.procedure.shipped():
                found = {k: v.shape for k, v in _state(again[role].module).items()}
                require(found == shapes[role], f"'{role}' is adapted differently when it is replayed")
                model = run.setup.models[role]
                model.module.eval()
                with torch.no_grad():
                    answer = task.call(model, batch)
                for each in io.outputs:
                    require(each.name in answer, f"'{role}' does not answer '{each.name}'")
                    got = tuple(answer[each.name].shape[1:])
                    fits = len(got) == len(each.shape)
                    fits = fits and all(b in (None, a) for a, b in zip(got, each.shape, strict=True))
                    require(fits, f"'{role}' answers '{each.name}' of {got} a sample, the task asks for {each.shape}")
                check_taps(model, [batch[name] for name in model.inputs])

    def test_its_product_answers_the_task(self) -> None:
        with _folder() as folder:
            run, _ = self.trained(folder)
            product = run.procedure.product(run.setup)
            if product is None:
                return
            called: list[str] = []

            batch = self.source().split("train").load([0, 1])
            calls = {name: noted(name, module_call(graph), called) for name, graph in product.graphs.items()}
            with torch.no_grad():
                answer = product.call(calls, batch)
            missed = sorted(set(product.graphs) - set(called))
            require(not missed, f"graph '{', '.join(missed)}' is delivered, but not called")
            for each in run.setup.io.outputs:
                require(each.name in answer, f"the product does not answer '{each.name}'")
            require(
                all(isinstance(each, bytes) for each in product.files.values()), "a file of the product is no bytes"
            )
            json.dumps(dict(product.facts), allow_nan=False)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="kdsearch-contract-") as folder:
        yield Path(folder)


def _state(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items() if isinstance(value, Tensor)}


def _end(run: Training) -> dict[str, Tensor]:
    """All that is trained: the models, the procedure's own parts and the distillers'."""
    parts = {**{role: model.module for role, model in run.setup.models.items()}, "procedure": run.procedure}
    parts |= run.setup.distillers
    return {f"{of}.{name}": value for of, module in parts.items() for name, value in _state(module).items()}


def _shapes(run: Training) -> dict[str, dict[str, Any]]:
    """Of what ships, by role."""
    return {
        role: {k: v.shape for k, v in _state(run.setup.models[role].module).items()} for role in run.procedure.shipped()
    }


def _equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)


def _after(step: int) -> Callable[[], bool]:
    asked: list[int] = []
    return lambda: asked.append(1) or len(asked) == step  # type: ignore[func-returns-value]


def _watched(run: Training, found: list[Phase]) -> None:
    phases = run.procedure.phases

    def noted(setup: Any) -> Iterator[Phase]:
        for phase in phases(setup):
            found.append(phase)
            yield phase

    run.procedure.phases = noted  # type: ignore[method-assign]


class _Spy:
    """A source that knows which splits were asked for."""

    def __init__(self, source: DataSource) -> None:
        self._source = source
        self.read: set[str] = set()

    def split(self, name: str) -> Split:
        self.read.add(name)
        return self._source.split(name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)
