"""The capabilities that come with kdsearch, through the same door as anyone's."""

from kdsearch.hooks import Register, hookimpl

_AT = "kdsearch.builtin"


@hookimpl
def kdsearch_register(register: Register) -> None:
    register.task("classification", f"{_AT}.classification:Classification", about="one of K classes")
    register.procedure("distill", f"{_AT}.distill:Distill", about="task loss and weighted distillers, one phase")
    _datasets(register)
    _teachers(register)
    for metric in ("accuracy", "top5", "balanced_accuracy", "nll", "ece"):
        cls = {"nll": "NegativeLogLikelihood", "ece": "CalibrationError"}.get(metric) or metric.title().replace("_", "")
        register.metric(metric, f"{_AT}.metrics:{cls}")
    register.exporter("onnx", f"{_AT}.onnx_exporter:OnnxExporter", about="one ONNX file, opset 21")
    register.quantizer("int8", f"{_AT}.int8:Int8", about="static QDQ, per channel")
    register.quantizer("int4", f"{_AT}.int4:Int4", about="4-bit weights in blocks, convolutions too")
    register.pruner("channels", f"{_AT}.channels:Channels", about="structured channels")
    for name, cls in {
        "optuna": "Optuna",
        "random": "Random",
        "exhaustive": "Exhaustive",
        "evolution": "Evolution",
    }.items():
        register.controller(name, f"{_AT}.controllers.{name}:{cls}")
    for name, cls in {"halving": "Halving", "median": "Median", "none": "Never"}.items():
        register.stopper(name, f"{_AT}.stoppers:{cls}")
    register.executor("inprocess", f"{_AT}.executors:InProcess", about="one after another in this process")
    register.executor("processes", f"{_AT}.executors:Processes", about="one spawned process a trial")


def _datasets(register: Register) -> None:
    register.dataset("digits", f"{_AT}.datasets.digits:Digits", about="1,797 real 8x8 digits; always there")


def _teachers(register: Register) -> None:
    register.teacher("trained", f"{_AT}.teachers.trained:Trained", about="trained by the study")
