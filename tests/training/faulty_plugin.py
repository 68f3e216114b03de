"""Data set, task, teacher, search space, proxy, controller, stopper, executor and pruner with the mistakes that authors make."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from kdsearch.builtin.executors import perform
from kdsearch.hooks import Register, hookimpl
from kdsearch.kinds import (
    IO,
    Ask,
    Batch,
    Compressor,
    Controller,
    Cost,
    Dataset,
    DataSource,
    Distiller,
    Done,
    Executor,
    Field,
    Job,
    Model,
    Options,
    Outputs,
    Plan,
    Proxy,
    SearchSpace,
    Services,
    Split,
    Step,
    Stopper,
    Subject,
    TapShapes,
    Task,
    Teacher,
    Trial,
    searched,
)

N = 60


class HowOptions(Options):
    how: str = ""


class Stripes:
    ids: Any = tuple(f"s{i}" for i in range(N))

    def __init__(self, spoil: Callable[[Batch], Any]) -> None:
        self.spoil = spoil

    def load(self, index: Sequence[int], augment: bool = False, seed: int = 0) -> Any:
        rng = torch.Generator().manual_seed(1)
        images = torch.randn(N, 1, 8, 8, generator=rng)[list(index)]
        return self.spoil(Batch(tuple(self.ids[i] for i in index), {"image": images, "label": torch.tensor(index) % 3}))


class Source:
    fields: Any = (Field("image", "image", (1, 8, 8)), Field("label", "label", (), "int64", "target"))
    splits = ("train",)

    def __init__(self, spoil: Callable[[Batch], Any]) -> None:
        self.facts: Any = {"classes": ["a", "b", "c"], "source": "drawn", "licence": "none"}
        self.train = Stripes(spoil)
        self.train.labels = torch.arange(N) % 3  # type: ignore[attr-defined]

    def split(self, name: str) -> Split:
        return self.train


def torn(batch: Batch) -> Batch:
    if "s7" in batch.ids:
        raise RuntimeError("the file is torn")
    return batch


SPOILT: Mapping[str, Callable[[Batch], Any]] = {
    "dict": lambda batch: dict(batch.tensors),
    "ids": lambda batch: Batch(batch.ids[::-1], batch.tensors),
    "lacks": lambda batch: Batch(batch.ids, {"label": batch["label"]}),
    "array": lambda batch: batch.having(image=batch["image"].numpy()),
    "count": lambda batch: batch.having(image=batch["image"][:-1]),
    "shape": lambda batch: batch.having(image=batch["image"][..., :7]),
    "dtype": lambda batch: batch.having(image=batch["image"].double()),
    "label": lambda batch: batch.having(label=batch["label"] + 5),
    "nan": lambda batch: batch.having(image=batch["image"].where(batch["image"] < 1, torch.nan)),
    "torn": torn,
    "no target": lambda batch: Batch(batch.ids, {"image": batch["image"]}),
}


class FaultyData(Dataset[HowOptions]):
    def __init__(self, options: HowOptions) -> None:
        super().__init__(options)
        if options.how == "made":
            raise ValueError("odd options")

    def open(self, services: Services) -> DataSource:
        how = self.options.how
        if how == "opened":
            raise FileNotFoundError("rows.csv")
        if how == "import":
            import no_such_reader  # type: ignore[import-not-found] # noqa: F401
        source: Any = None if how == "none" else Source(SPOILT.get(how, lambda batch: batch))
        if how == "fields":
            source.fields = [{"name": "image"}]
        if how == "facts":
            source.facts = None
        if how == "notes":
            source.facts["notes"] = "two"
        if how == "splits":
            source.splits = None
        if how == "split":
            source.train = None
        if how == "numbers":
            source.train.ids = range(N)
        return source  # type: ignore[no-any-return]


class FaultyTask(Task[HowOptions]):
    objective = "accuracy"
    metrics = ("accuracy",)

    def io(self, fields: Sequence[Field], facts: Mapping[str, Any]) -> Any:
        if self.options.how == "raise":
            raise KeyError("names")

    def loss(self, out: Outputs, batch: Batch) -> Tensor:
        return out["logits"].sum()


class FaultyTeacher(Teacher[HowOptions]):
    def model(self, io: IO, services: Services) -> Any:
        if self.options.how == "raise":
            raise ValueError("no weights")
        linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        return (
            Model(linear, ("image",), (), ("logits",), name="seen") if self.options.how == "view" else nn.Linear(64, 3)
        )

    def view(self, batch: Batch, rng: torch.Generator) -> Any:
        return None if self.options.how == "view" else batch


class FaultySpec(HowOptions):
    width: Annotated[int, searched(4, 8)] = 4


class FaultySpace(SearchSpace[FaultySpec]):
    """A linear layer. How it is at fault is an option of the spec, which the study fixes."""

    def how(self, method: str) -> bool:
        return self.region.fixed.get("how") == method

    def sample(self, rng: torch.Generator) -> Any:
        if self.how("raise"):
            raise ValueError("nothing to draw from")
        return {"width": 4} if self.how("sample") else super().sample(rng)

    def canonical(self, spec: FaultySpec) -> Any:
        return None if self.how("canonical") else super().canonical(spec)

    def cost(self, spec: FaultySpec, io: IO) -> Any:
        formula = Cost(650, 640) if self.how("none") else None
        return (1, 2) if self.how("cost") else formula

    def build(self, spec: FaultySpec, io: IO) -> Any:
        if self.how("none"):
            return None
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 7 if self.how("classes") else 10))
        return net if self.how("build") else Model(net, ("image",), (), ("logits",), name="linear")


class FaultyProxy(Proxy[HowOptions]):
    def taps(self) -> Any:
        if self.options.how == "raise":
            raise ValueError("no such tap")
        return {"none": None, "one": "logits", "role": {"studnet": ["logits"]}}.get(self.options.how, ())

    def fit(self, sample: Any, probe: Any) -> None:
        if self.options.how == "fit":
            raise ZeroDivisionError("no sample")

    def score(self, student: Model, probe: Any) -> Any:
        scores = {"none score": None, "text score": "0.5", "vector": torch.zeros(3), "tensor": torch.ones(1, 1)}
        return scores.get(self.options.how, np.float32(1.0))


class FaultyController(Controller[HowOptions]):
    def preflight(self, n_objectives: int) -> None:
        if self.options.how == "preflight":
            raise ValueError("no licence")

    def ask(self, space: Any, dims: Any, history: Any, n: int, seed: int) -> Any:
        if self.options.how == "none":
            return None
        values = {dim.path: (dim.range.choices or (dim.range.low,))[0] for dim in dims}
        first = next(dim.path for dim in dims if not dim.range.choices)
        how = self.options.how
        if how == "raise":
            raise ZeroDivisionError("no trial yet")
        if how == "lacks":
            del values[first]
        if how in ("nan", "far", "text"):
            values[first] = {"nan": math.nan, "far": 1e9, "text": "0.5"}[how]
        return {"map": values, "dict": [values], "nothing": [None]}.get(how, [Ask(values)])


class FaultyStopper(Stopper[HowOptions]):
    def rungs(self) -> Any:
        how = self.options.how
        if how == "raise":
            raise ZeroDivisionError("no rung yet")
        shares = {"none": None, "text": ["half"], "per cent": (34,), "down": (0.6, 0.3), "one": 0.5}
        return shares.get(how, (0.5,))

    def go_on(self, rung: float, trial: Trial, others: Sequence[Trial]) -> bool:
        return True


class FaultyExecutor(Executor[HowOptions]):
    """Jobs here, one at a time, which are told wrongly."""

    job: Job | None = None

    def submit(self, job: Job) -> None:
        self.job = job

    def wait(self, timeout_s: float) -> Any:
        assert self.job is not None
        if self.options.how == "lost" and self.job.id != "dry":
            return [Done(self.job.id, {})]
        return {"none": None, "name": [self.job.id]}.get(self.options.how, [perform(self.job)])

    def stop(self, id: str) -> None:
        self.job = None

    def close(self) -> None:
        if self.options.how == "close":
            raise OSError("no such process")


class FaultyPruner(Compressor[HowOptions]):
    def plan(self, subject: Subject) -> Any:
        if self.options.how == "raise":
            raise ValueError("no such layer")
        return None if self.options.how == "plan" else Plan({})

    def apply(self, model: Model, plan: Plan) -> Any:
        return model.module


class FaultyQuantizer(Compressor[HowOptions]):
    side: Literal["model", "weights", "file"] = "file"

    def plan(self, subject: Subject) -> Any:
        return None


class Stop(BaseException):
    pass


class FaultyDistiller(Distiller[HowOptions]):
    def build(self, shapes: TapShapes) -> None:
        self.own = nn.Linear(2, 2)
        raised = {"builds": ValueError("no such width"), "exits": SystemExit(3), "stops": Stop("here")}
        if self.options.how in raised:
            raise raised[self.options.how]

    def lr_factors(self) -> Any:
        if self.options.how == "factors":
            raise KeyError("own")
        factors: dict[str, Any] = {
            "below": -0.1,
            "no factor": math.nan,
            "word": "0.5",
            "late word": lambda progress: "0.5",
        }
        if self.options.how in factors:
            return {"own.*": factors[self.options.how]}
        return {"list": ["own.*"], "glob": {"on.*": 0.5}}.get(self.options.how, {"own.weight": np.float32(0.5)})

    def taps(self) -> Any:
        if self.options.how == "raise":
            raise ValueError("no such tap")
        taps = {"taps": None, "one tap": {"student": "logits"}, "role": {"studnet": ["logits"]}}
        return taps.get(self.options.how, {})

    def constants(self) -> Any:
        constants = {"constants": None, "text": {"logits": "2"}, "nan": {"logits": math.nan}, "dot": {"a.b": 2.0}}
        return constants.get(self.options.how, {} if self.options.how.startswith("gives") else {"logits": 2.0})

    def named_terms(self) -> Any:
        return {"terms": "logits", "name": ["a.b"]}.get(self.options.how, super().named_terms())

    def on_step_end(self, step: Step) -> None:
        if self.options.how == "late":
            self.register_buffer("queue", torch.zeros(4))

    def terms(self, step: Step) -> Any:
        term = step.student["logits"].square().mean()
        given = {"gives none": None, "gives a list": [term], "gives nothing": {}, "gives a dot": {"a.b": term}}
        return given.get(self.options.how, {"logits": term})


@hookimpl
def kdsearch_register(register: Register) -> None:
    register.dataset("faulty", f"{__name__}:FaultyData")
    register.task("faulty", f"{__name__}:FaultyTask")
    register.teacher("faulty", f"{__name__}:FaultyTeacher")
    register.search_space("faulty", f"{__name__}:FaultySpace")
    register.proxy("faulty", f"{__name__}:FaultyProxy")
    register.controller("faulty", f"{__name__}:FaultyController")
    register.stopper("faulty", f"{__name__}:FaultyStopper")
    register.executor("faulty", f"{__name__}:FaultyExecutor")
    register.pruner("faulty", f"{__name__}:FaultyPruner")
    register.quantizer("faulty", f"{__name__}:FaultyQuantizer")
    register.distiller("faulty", f"{__name__}:FaultyDistiller")
