"""The study file's schema. Every section is strict: an unknown key or a wrong type is an error.

Options of capabilities stay raw here (`options`, `spec`): their own classes validate them, see `study/check.py`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from kdsearch.limits import (
    BATCH,
    CANDIDATES,
    EPOCHS,
    KEPT,
    NAME,
    NAME_IN_WORDS,
    PROBE_BATCH,
    SEEDS,
    THREADS,
    TRIALS,
    WORKERS,
)

Searched = Any  # a fixed value, "search", {low, high[, log]} or {choices: [...]}
FORMAT = 1  # of the study file


def _named(value: str) -> str:
    if not re.fullmatch(NAME, value):
        raise ValueError(NAME_IN_WORDS)
    return value


# What becomes a file or a key
Name = Annotated[str, AfterValidator(_named), Field(json_schema_extra={"pattern": f"^{NAME}$"})]
Positive = Annotated[int, Field(gt=0)]
Percent = Annotated[str, Field(pattern=r"^\d{1,6}(\.\d{1,6})? ?%$")]
Threads = Annotated[int, Field(gt=0, le=THREADS)]
Workers = Annotated[int, Field(gt=0, le=WORKERS)]
Epochs = Annotated[int, Field(gt=0, le=EPOCHS)]
Trials = Annotated[int, Field(gt=0, le=TRIALS)]


class Section(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Use(Section):
    """A capability by name, with its own options; its name alone stands for one without options."""

    use: str = Field(description="name of the capability; `distribution:kind:name` where two packages share it")
    options: dict[str, Searched] = Field(
        default_factory=dict, description="its options; `kdsearch plugins show NAME` lists them"
    )

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {"use": value} if isinstance(value, str) else value


class MeanStd(Section):
    """Of pixels in 0..1: one number, or one a channel."""

    mean: float | list[float]
    std: Annotated[float, Field(gt=0)] | list[Annotated[float, Field(gt=0)]]


class Data(Use):
    normalize: Literal["auto", "imagenet", "none"] | MeanStd = Field(
        "auto",
        description="what images are fed as: auto = by the mean and std of the training images, live samples as they are; "
        "none = pixels of 0..1; or `{mean, std}`",
    )
    labeled: Annotated[float, Field(gt=0, le=1)] | Positive = Field(
        1.0,
        description="labels for this share (0..1] or number of the non-test samples, those used for selection included",
    )
    validation: float = Field(0.15, gt=0, lt=1, description="share held out, unless the data set has its own")
    test: float = Field(
        0.2, gt=0, lt=1, description="share held out for the final report, unless the data set has its own"
    )
    train_samples: Positive | None = Field(None, description="use only so many training samples (stratified)")
    workers: int = Field(0, ge=0, le=WORKERS, description="loader processes")
    recipes: list[Use] = Field(
        default_factory=list, description="data recipes, one after another: what the last one gives is trained on"
    )


class Teacher(Use):
    normalize: Literal["auto", "data", "imagenet", "none"] | MeanStd = Field(
        "auto",
        description="what it was trained on: auto = what its weights say, else what validation shows; data = as the data are; "
        "none = pixels of 0..1; or `{mean, std}`",
    )
    expected: dict[str, float] = Field(
        default_factory=dict,
        description="metric -> value: refuse a teacher that is clearly worse on the validation split; the study's objective, and "
        "`accuracy` where each sample has a class",
    )
    cache: Literal["auto", "on", "all", "off"] = Field(
        "auto",
        description="outputs cached by sample id: auto = where nothing augments; on = an error where something does; all = as on, "
        "and of the test split, for metrics and figures that ask for them",
    )


class Student(Section):
    """A search space, or its name alone."""

    space: str = Field(description="a search space, or a Python path `file.py:Class` (needs --allow-code)")
    spec: dict[str, Searched] = Field(default_factory=dict, description="its fields; those left out are searched")

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {"space": value} if isinstance(value, str) else value


class DistillerUse(Use):
    name: Name | None = Field(None, description="its name in weights and reports, where one distiller is used twice")
    teacher: Name = Field("main", description="which of the study's teachers")
    weight: Searched = Field(1.0, description="of all its terms")
    weights: dict[Name, Searched] = Field(
        default_factory=dict, description="of single terms, by name; instead of `weight`"
    )
    optional: bool = Field(False, description="the search may drop it")


def section_of(name: str, key: str) -> str | dict[str, str]:
    """The section that a name alone stands for, where that may have the key; else the name."""
    if key in Student.model_fields:
        return {"space": name}
    sections: list[type[Use]] = [Use, *Use.__subclasses__()]
    keys = {field for section in sections for field in section.model_fields}
    return {"use": name} if key in keys else name


class Schedule(Section):
    """Of the learning rate, as a factor on `lr`; its kind alone stands for one with the usual numbers."""

    kind: Literal["constant", "cosine", "linear", "polynomial", "step", "cyclic"] = Field(
        description="what the rate does; `cosine`, `linear` and `polynomial` fall to `end`"
    )
    warmup: float = Field(0.0, ge=0, lt=1, description="share of the training over which the rate first rises to `lr`")
    start: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="factor that the warm-up begins at; none = 0.01"
    )
    end: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="factor at the end of `cosine`, `linear` and `polynomial`; none = 0"
    )
    power: Annotated[float, Field(gt=0)] | None = Field(None, description="of `polynomial`; none = 1")
    at: list[Annotated[float, Field(gt=0, lt=1)]] | None = Field(
        None, description="shares of the training at which `step` falls; none = `[0.5, 0.75]`"
    )
    factor: Annotated[float, Field(gt=0, le=1)] | None = Field(None, description="of each fall of `step`; none = 0.1")
    cycles: Annotated[int, Field(gt=0, le=EPOCHS)] | None = Field(
        None, description="rises and falls of `cyclic`; none = 4"
    )
    low: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="factor between the rises of `cyclic`; none = 0.1"
    )

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value


class Train(Section):
    optimizer: Searched = Field("adamw", description="sgd, adam or adamw")
    lr: Searched = Field(2e-3, description="peak learning rate")
    batch_size: Searched = Field(128, description="samples a micro-batch")
    weight_decay: Searched = Field(0.02, description="decoupled for adamw; biases and norms have none")
    momentum: float = Field(0.9, ge=0, lt=1)
    schedule: Schedule = Schedule(kind="cosine")
    clip: float = Field(0.0, ge=0, description="largest gradient norm; 0 = none")
    accumulate: Annotated[int, Field(gt=0, le=BATCH)] = Field(
        1, description="micro-batches a step, shared out among `run.devices`"
    )


class Recipe(Section):
    procedure: Use = Use(use="distill", options={})
    task_weight: Searched = Field(1.0, description="of the task's own loss")
    normalize: bool = Field(
        True, description="weights in units of the task loss at the start; false = the paper's own constants"
    )
    distillers: list[DistillerUse] = Field(default_factory=list)
    train: Train = Train()


class Latency(Section):
    max: float = Field(gt=0, description="milliseconds, median of batch 1")
    threads: Threads = 1
    format: str | None = Field(None, description="of `export.formats`: the file that has to keep it; none = fp32")


class Bytes(Section):
    max: Positive
    format: str | None = Field(None, description="of `export.formats`: the file that has to keep it; none = fp32")


class Constraints(Section):
    params: Positive | None = Field(None, description="weights of the student")
    macs: Positive | None = Field(None, description="multiply-accumulates for one sample")
    onnx_bytes: Bytes | Positive | None = Field(
        None, description="size of the exported file, fp32 unless it says which"
    )
    latency_ms: Latency | Annotated[float, Field(gt=0)] | None = Field(
        None, description="its median on this machine, of fp32 unless it says which"
    )
    peak_bytes: Bytes | Positive | None = Field(
        None,
        description="most memory that the values of one call need at once beside the weights, as onnxruntime runs the file; of "
        "fp32 unless it says which",
    )


class Probe(Section):
    input: Literal["noise", "train"] = Field(
        "noise", description="what the proxies see: N(0, 1) noise or training samples"
    )
    batch_size: Annotated[int, Field(gt=0, le=PROBE_BATCH)] = 32
    seeds: Annotated[int, Field(gt=0, le=SEEDS)] = Field(1, description="initialisations a candidate, averaged")


class Search(Section):
    proxy: str | Use | list[str | Use] = Field(
        "auto", description="a name, or several combined by rank; `auto` stands for its terms"
    )
    strategy: Use = Use(use="random", options={})
    candidates: Annotated[int, Field(gt=0, le=CANDIDATES)] = Field(500, description="distinct candidates to score")
    keep: Annotated[int, Field(gt=0, le=KEPT)] | None = Field(
        None,
        description="how many `refine` may choose from, beside those of `refine.first`; none = the best 1,000, or 24 where limits "
        "or objectives need their files; 8 of them for a controller that does not read scores, as all but `surrogate`",
    )
    probe: Probe = Probe()


class Refine(Section):
    controller: Use = Use(use="surrogate", options={})
    trials: Trials = 8
    epochs: Epochs = 2
    generation: Trials = Field(
        4,
        description="a trial is asked for when all but the last so many - 1 before it have ended; workers change no result",
    )
    stopper: Use = Use(use="halving", options={})
    first: tuple[Literal["scored", "families", "largest", "cheapest"], ...] = Field(
        ("scored", "families", "largest", "cheapest"),
        description="the first trial, the fourth and so on are these, the others the controller's: scored = the best-scored "
        "architecture with the recipe's defaults, or with the best-scored weighting; families = that of each other family of its "
        "space, such as GRU beside transformer, with the same recipe; largest = the candidates of most params and of "
        "most MACs that keep the limits, with the plain recipe; cheapest = the one with least of each cost among the objectives, "
        "alike (of a latency the least MACs, of bytes the least params)",
    )
    weightings: bool | Literal["auto"] = Field(
        "auto",
        description="score loss weightings without training; the best one is tried first; auto = where labels are hidden and "
        "`first` has scored",
    )


class Compare(Section):
    """Other students, distilled like the winner with fewer epochs, so that the choice can be judged."""

    largest: bool = True
    random: int = Field(5, ge=0, le=KEPT)
    epochs: Epochs = 4


class Distill(Section):
    winners: Trials = 1
    finalists: Trials = Field(
        3,
        description="so many trials begin that are near the best one, of different families of their space and of different "
        "networks where there are such, else those of `refine.first`; after a quarter of the epochs the `winners` that "
        "are best on validation go on; 1 = the trials alone decide; of a `pick` by the first metric",
    )
    pick: str = Field(
        "best",
        description="which trials win: best (of one objective the largest network, of the best one's family, of those that "
        "validation cannot tell from the best one; of several front by front, by the first that is a metric), knee, or min:NAME "
        "and max:NAME of an objective or cost; with conditions, as in `min:latency_ms,accuracy>=0.9`",
    )
    epochs: Epochs = 30
    leftover: bool = Field(
        False,
        description="whether the epochs that stopped trials and finalists that did not begin leave go to the winners, up to half "
        "as many as `epochs`; the controls train as long",
    )
    controls: tuple[Literal["baseline", "all_labels", "no_search"], ...] = ("baseline", "all_labels")
    compare: Compare | None = None


class Prune(Use):
    recover_epochs: int = Field(2, ge=0, le=EPOCHS, description="epochs of the winner's recipe after the cut")
    recover_lr: float = Field(0.3, gt=0, description="factor on the recipe's learning rate in recovery")


class Sparsify(Prune):
    """Zeros instead of a cut: shapes stay, and recovery is where the zeros come in."""


class Quantize(Use):
    recover_epochs: int = Field(
        0,
        ge=0,
        le=EPOCHS,
        description="where the file loses more on validation than export.max_drop, the student trains so many epochs of the "
        "winner's recipe as it will be quantised, and the file is made of it if that loses less; 0 = never",
    )
    recover_lr: float = Field(0.3, gt=0, description="factor on the recipe's learning rate in that training")


class CompressStep(Section):
    """Exactly one of its keys."""

    prune: Prune | None = Field(None, description="a pruner, with the keys of `compress.prune`")
    sparsify: Sparsify | None = Field(None, description="a sparsifier, with the same keys")

    @property
    def kind(self) -> Literal["pruner", "sparsifier"]:
        return "sparsifier" if self.prune is None else "pruner"

    @property
    def use(self) -> Prune:
        found = self.sparsify if self.prune is None else self.prune
        assert found is not None
        return found


class Compress(Section):
    """A list alone stands for its steps."""

    prune: Prune | None = Field(None, description="short for one step that prunes: see `compress.prune`")
    steps: list[CompressStep] = Field(
        default_factory=list,
        description="`{prune: NAME}` or `{sparsify: NAME}`, one after another, each with a recovery",
    )
    quantize: list[Quantize] = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return {"steps": value} if isinstance(value, list) else value

    @property
    def chain(self) -> list[tuple[str, CompressStep]]:
        """(key path, step) of what is done to the network, in order."""
        if self.prune is not None:
            return [("compress.prune", CompressStep(prune=self.prune))]
        return [
            (f"compress.steps[{i}].{'sparsify' if each.prune is None else 'prune'}", each)
            for i, each in enumerate(self.steps)
        ]


class Export(Section):
    exporter: Use = Use(use="onnx", options={})
    formats: list[str] = Field(default_factory=lambda: ["onnx-fp32"])
    max_drop: dict[str, Annotated[float, Field(ge=0)] | Percent] = Field(
        default_factory=dict,
        description="format -> how much worse than fp32 the first objective that is a metric may be: a number in its own unit, "
        "or `1%` of fp32's value; where not given, 0.01 of a share, 1% of anything else",
    )
    min_agreement: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        default_factory=dict,
        description="format -> least share of the test split's answers that are torch's (the same class scored highest, the same "
        "labels above 0.5); where not given, 0.9; for networks that score classes or labels, and files that answer a class",
    )
    parity: float = Field(
        1e-4,
        gt=0,
        description="largest difference of the fp32 file, of which all others are made, to torch, as a share of the output's own "
        "standard deviation; a file no further off than 4 times what torch's own fp32 is from its fp64 passes all the same; of "
        "a file that answers a class, the share of answers that are not torch's",
    )


class Run(Section):
    executor: Use | None = Field(
        None,
        description="where trials run; none = `processes`, and `inprocess` for live objects, which exist in their process only",
    )
    workers: Workers = 1
    threads_per_trial: Threads = 1
    trial_timeout_s: float | None = Field(
        None, gt=0, description="a trial that takes longer, all its pieces together, is ended and has failed"
    )
    trial_memory_bytes: Positive | None = Field(None, description="the same for resident memory")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: Workers = Field(
        1,
        description="processes that share each training: GPUs, or processes on the CPU; divides recipe.train.accumulate",
    )
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    storage: str | None = Field(
        None,
        min_length=1,
        description="URL of an Optuna storage for the trials (sqlite, PostgreSQL, `grpc://HOST:PORT`); none = DIR/trials.journal",
    )
    store: str | None = Field(None, min_length=1, description="a path or fsspec URL shared by studies")
    log: list[Use] = Field(default_factory=list, description="loggers that mirror trials and trainings, in DIR/log")


class Config(Section):
    """The whole file."""

    format: Literal[1] = 1
    name: Name = Field("study", description="in reports and file names; left out, the study file's own")
    seed: int = Field(0, ge=0)
    data: Data
    task: Use | None = Field(None, description="what `data` declares, if left out")
    teacher: Teacher | None = None
    teachers: dict[Name, Teacher] = Field(default_factory=dict)
    student: Student | None = None
    students: dict[Name, Student] = Field(default_factory=dict)
    recipe: Recipe
    objectives: dict[str, Literal["max", "min"]] = Field(
        default_factory=dict,
        description="on the validation split: metrics and costs; the first metric is what curves and gates go by",
    )
    metrics: list[Use] = Field(
        default_factory=list,
        description="measured beside the task's own on every file; also where options of the task's or of an objective are given",
    )
    constraints: Constraints = Constraints()
    search: Search = Search()
    refine: Refine = Refine()
    distill: Distill = Distill()
    compress: Compress = Compress()
    export: Export = Export()
    run: Run = Run()

    @field_validator("objectives")
    @classmethod
    def _at_most_three(cls, value: dict[str, str]) -> dict[str, str]:
        if len(value) > 3:
            raise ValueError("at most three objectives")
        return value
