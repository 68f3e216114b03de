"""Teacher `trained`: a member of a search space that the study itself trains before anything else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from kdsearch.kinds import IO, Model, Options, Services, Teacher, Training
from kdsearch.limits import BATCH, EPOCHS, THREADS


class TrainedBy(Options):
    use: str = Field("distill", min_length=1, description="an installed procedure; `distill` is the task's loss alone")
    options: dict[str, Any] = Field(default_factory=dict, description="its options")


class TrainedOptions(Options):
    space: str = Field("cifar_resnet", description="search space that the teacher is a member of")
    spec: dict[str, Any] = Field(default_factory=dict, description="its fields; those left out have their defaults")
    epochs: int = Field(20, ge=1, le=EPOCHS, description="passes over the training samples")
    labels: Literal["all", "given"] = Field(
        "all", description="all = also the labels that the study hides from the student; given = only what it may see"
    )
    optimizer: Literal["sgd", "adam", "adamw"] = Field("adamw", description="as in recipe.train")
    lr: float = Field(2e-3, gt=0, description="peak learning rate")
    batch_size: int = Field(128, ge=1, le=BATCH, description="samples a micro-batch")
    accumulate: int = Field(1, ge=1, le=BATCH, description="micro-batches a step, shared out among run.devices")
    weight_decay: float = Field(0.05, ge=0, description="decoupled for adamw")
    procedure: TrainedBy = Field(
        default_factory=TrainedBy,
        description="how it is trained: a procedure of one role, `student`, without a teacher",
    )
    threads: int | None = Field(
        None,
        ge=1,
        le=THREADS,
        description="CPU threads of its training; left out: run.threads_per_trial. It is alone, trials are not",
    )


class Trained(Teacher[TrainedOptions]):
    """With `labels: all` it knows what the student is not told: the setting of a teacher from elsewhere."""

    @property
    def training(self) -> Training:
        o, own = self.options, self.options.procedure
        is_usual = own == TrainedBy()  # samples with a label are all that it passes over
        return Training(
            o.epochs,
            o.labels,
            o.lr,
            o.batch_size,
            o.optimizer,
            o.weight_decay,
            threads=o.threads,
            accumulate=o.accumulate,
            is_fresh=True,
            procedure="" if is_usual else own.use,
            procedure_options=own.options,
        )

    def model(self, io: IO, services: Services) -> Model:
        """Raise PluginError for a space that does not exist, StudyError for a spec that it refuses."""
        return services.build(self.options.space, self.options.spec)

    def facts(self) -> Mapping[str, Any]:
        return {"source": "trained by this study", "space": self.options.space, "labels": self.options.labels}
