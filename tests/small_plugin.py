"""A plugin with one small capability of every kind that a study names, for tests of the host, the study and the commands."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from kdsearch import kinds
from kdsearch.hooks import KINDS, Register, hookimpl
from kdsearch.kinds import Access, Options, StudentTap, TeacherTap, TextTeacher, searched

HERE = __name__


class DigitsOptions(Options):
    resize: int = Field(16, gt=0, description="side of the images in pixels")


class Digits(kinds.Dataset[DigitsOptions]):
    """Handwritten digits."""

    def open(self, services: Any) -> Any:
        raise NotImplementedError


class TrainedOptions(Options):
    space: str
    spec: dict[str, Any] = Field(default_factory=dict)
    epochs: int = Field(10, ge=0)


class Trained(kinds.Teacher[TrainedOptions]):
    """A teacher that the study trains."""


class Outputs(kinds.Teacher[kinds.NoOptions]):
    """A teacher of which only the outputs are seen."""

    access = Access.LOGITS


class SpaceOptions(Options):
    depths: Annotated[list[int], searched(1, 2, 3, each=3)] = Field([1, 1, 1])
    width: Annotated[Literal[8, 16, 32], searched(8, 16, 32)] = 16


class Space(kinds.SearchSpace[SpaceOptions]):
    """Three stages."""

    def build(self, spec: SpaceOptions, io: Any) -> Any:
        raise NotImplementedError


class KDOptions(Options):
    temperature: Annotated[float, Field(gt=0), searched(low=1.0, high=8.0, log=True)] = Field(
        4.0, description="softens both distributions"
    )


class KD(kinds.Distiller[KDOptions]):
    """Soft targets."""

    paper_weights: ClassVar[dict[str, float]] = {"kd": 16.0}

    def terms(self, step: Any) -> Any:
        raise NotImplementedError


class HintOptions(Options):
    teacher_tap: TeacherTap = "stage[-1]"
    student_tap: StudentTap = "stage[-1]"
    kernel: Annotated[Literal[1, 3], searched(1, 3)] = 1


class Hint(kinds.Distiller[HintOptions]):
    """Imitates a map."""

    def terms(self, step: Any) -> Any:
        raise NotImplementedError


class NotesOptions(Options):
    llm: TextTeacher = "llm"


class Notes(kinds.Distiller[NotesOptions]):
    """Reads what a text teacher wrote."""

    needs_teacher: ClassVar[bool] = False

    def terms(self, step: Any) -> Any:
        raise NotImplementedError


class OwnLoss(kinds.Distiller[kinds.NoOptions]):
    """Replaces the task's loss."""

    owns_task_loss: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = False

    def terms(self, step: Any) -> Any:
        raise NotImplementedError


class DistillOptions(Options):
    warmup: Annotated[float, Field(ge=0, le=1), searched(low=0.0, high=0.5)] = 0.0


class Distill(kinds.Procedure[DistillOptions]):
    """One phase."""

    def phases(self, setup: Any) -> Any:
        raise NotImplementedError


class Pair(kinds.Procedure[kinds.NoOptions]):
    """Two students that teach each other."""

    roles: ClassVar[tuple[str, ...]] = ("cnn", "vit")

    def phases(self, setup: Any) -> Any:
        raise NotImplementedError


class NeedsTeacher(kinds.Procedure[kinds.NoOptions]):
    """Cannot do without a teacher."""

    needs_teacher: ClassVar[bool] = True

    def phases(self, setup: Any) -> Any:
        raise NotImplementedError


class Score(kinds.Proxy[kinds.NoOptions]):
    """A training-free score."""

    def score(self, student: Any, probe: Any) -> float:
        raise NotImplementedError


class Plain(kinds.Compressor[kinds.NoOptions]):
    """Keeps everything."""

    def plan(self, subject: Any) -> Any:
        raise NotImplementedError


class BlockOptions(Options):
    block: int = Field(32, gt=0)


class Blocks(kinds.Compressor[BlockOptions]):
    """Four bits a weight."""

    def plan(self, subject: Any) -> Any:
        raise NotImplementedError


class Onnx(kinds.Exporter[kinds.NoOptions]):
    """ONNX files."""

    def write(self, graph: Any, example: Any, file: Any) -> None:
        raise NotImplementedError

    def load(self, file: Any, threads: int = 1) -> Any:
        raise NotImplementedError


class Accuracy(kinds.Metric[kinds.NoOptions]):
    """Share of right answers."""

    def measure(self, predict: Any, data: Any, split: str, services: Any) -> dict[str, float]:
        raise NotImplementedError


class Control(kinds.Controller[kinds.NoOptions]):
    """Draws."""

    def ask(self, space: Any, dims: Any, history: Any, n: int, seed: int) -> Any:
        raise NotImplementedError


class Halving(kinds.Stopper[kinds.NoOptions]):
    """Half of them go on."""

    def rungs(self) -> tuple[float, ...]:
        return (0.5,)

    def go_on(self, rung: float, losses: Any, history: Any) -> Any:
        return set(losses)


class Processes(kinds.Executor[kinds.NoOptions]):
    """One process a trial."""

    def submit(self, job: Any) -> None:
        raise NotImplementedError

    def wait(self, timeout_s: float) -> Any:
        raise NotImplementedError

    def stop(self, id: str) -> None:
        raise NotImplementedError


class Here(Processes):
    """One after another in this process."""

    remote = False


class Nowhere(kinds.Logger[kinds.NoOptions]):
    """Forgets what it is told."""

    def open(self, folder: Any, study: str) -> None:
        raise NotImplementedError

    def put(self, run: Any) -> None:
        raise NotImplementedError

    def knows(self, id: str) -> bool:
        return False


class Classification(kinds.Task[kinds.NoOptions]):
    """One label an image."""

    def io(self, fields: Any, facts: Any) -> Any:
        raise NotImplementedError

    def loss(self, out: Any, batch: Any) -> Any:
        raise NotImplementedError


NAMED = {
    "task": {"classification": "Classification"},
    "dataset": {"digits": "Digits", "own": "Digits"},
    "teacher": {"trained": "Trained", "outputs": "Outputs"},
    "search_space": {"cifar_resnet": "Space"},
    "proxy": dict.fromkeys(("nwot", "params", "diswot", "diswot_mr", "synflow", "relation"), "Score"),
    "distiller": {"kd": "KD", "fitnet": "Hint", "notes": "Notes", "own_a": "OwnLoss", "own_b": "OwnLoss"},
    "procedure": {"distill": "Distill", "pair": "Pair", "needs_teacher": "NeedsTeacher"},
    "pruner": {"channels": "Plain"},
    "sparsifier": {"magnitude": "Plain"},
    "quantizer": {"int8": "Plain", "int4": "Blocks"},
    "exporter": {"onnx": "Onnx"},
    "metric": {"accuracy": "Accuracy"},
    "controller": {"random": "Control", "optuna": "Control", "surrogate": "Control", "evolution": "Control"},
    "executor": {"inprocess": "Here", "processes": "Processes"},
    "stopper": {"halving": "Halving", "none": "Halving"},
    "logger": {"csv": "Nowhere"},
}


@hookimpl
def kdsearch_register(register: Register) -> None:
    for kind, names in NAMED.items():
        assert kind in KINDS
        for name, cls in names.items():
            register.add(kind, name, f"{HERE}:{cls}")
