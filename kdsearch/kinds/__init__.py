"""What a plugin sees: one file a capability kind."""

from kdsearch.kinds.compressor import Compressor, Judge, Plan, Subject, uncut
from kdsearch.kinds.controller import Ask, Controller, Stopper, Trial
from kdsearch.kinds.data import HIDDEN, Batch, Carries, DataSource, Decodes, Encodes, Field, Measured, Split, split_of
from kdsearch.kinds.data_recipe import DataRecipe, Record
from kdsearch.kinds.dataset import Dataset
from kdsearch.kinds.distiller import Distiller, Setup
from kdsearch.kinds.executor import Done, Executor, Job, listening, work_begins
from kdsearch.kinds.exporter import Ends, Exporter
from kdsearch.kinds.figure import Figure, Picture, Table, class_colour
from kdsearch.kinds.logger import Logger, Run
from kdsearch.kinds.metric import Measurement, Metric
from kdsearch.kinds.model import Cost, Model, Outputs, Shapes, Tap, TapShapes, traced_taps
from kdsearch.kinds.normalization import COMMON, IMAGENET, UNIT, Normalizable, Normalization, stated
from kdsearch.kinds.options import (
    Capability,
    Dim,
    EmbeddingTeacher,
    NoOptions,
    Options,
    Range,
    Searchable,
    StudentTap,
    TeacherNamed,
    TeacherTap,
    TextTeacher,
    requested_taps,
    searched,
)
from kdsearch.kinds.phase import Ema, Feed, Optim, Pass, Phase, Update
from kdsearch.kinds.procedure import Procedure
from kdsearch.kinds.proxy import Probe, Proxy
from kdsearch.kinds.samples import Samples
from kdsearch.kinds.schedule import Schedule
from kdsearch.kinds.services import Reply, Services, Writer
from kdsearch.kinds.space import SearchSpace, image_input, map_output, vector_output
from kdsearch.kinds.step import Clock, Step, Write
from kdsearch.kinds.task import IO, Call, Graph, Predict, Product, Task, named
from kdsearch.kinds.teacher import Access, Teacher, Training

__all__ = [
    "COMMON",
    "HIDDEN",
    "IMAGENET",
    "IO",
    "UNIT",
    "Access",
    "Ask",
    "Batch",
    "Call",
    "Capability",
    "Carries",
    "Clock",
    "Compressor",
    "Controller",
    "Cost",
    "DataRecipe",
    "DataSource",
    "Dataset",
    "Decodes",
    "Dim",
    "Distiller",
    "Done",
    "Ema",
    "EmbeddingTeacher",
    "Encodes",
    "Ends",
    "Executor",
    "Exporter",
    "Feed",
    "Field",
    "Figure",
    "Graph",
    "Job",
    "Judge",
    "Logger",
    "Measured",
    "Measurement",
    "Metric",
    "Model",
    "NoOptions",
    "Normalizable",
    "Normalization",
    "Optim",
    "Options",
    "Outputs",
    "Pass",
    "Phase",
    "Picture",
    "Plan",
    "Predict",
    "Probe",
    "Procedure",
    "Product",
    "Proxy",
    "Range",
    "Record",
    "Reply",
    "Run",
    "Samples",
    "Schedule",
    "SearchSpace",
    "Searchable",
    "Services",
    "Setup",
    "Shapes",
    "Split",
    "Step",
    "Stopper",
    "StudentTap",
    "Subject",
    "Table",
    "Tap",
    "TapShapes",
    "Task",
    "Teacher",
    "TeacherNamed",
    "TeacherTap",
    "TextTeacher",
    "Training",
    "Trial",
    "Update",
    "Write",
    "Writer",
    "class_colour",
    "image_input",
    "listening",
    "map_output",
    "named",
    "requested_taps",
    "searched",
    "split_of",
    "stated",
    "traced_taps",
    "uncut",
    "vector_output",
    "work_begins",
]
