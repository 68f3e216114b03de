"""The capabilities that come with kdsearch, through the same door as anyone's."""

from kdsearch.builtin import graph, tables, text, vision
from kdsearch.builtin.packages import PACKAGES
from kdsearch.hooks import Register, hookimpl

_AT = "kdsearch.builtin"


@hookimpl
def kdsearch_register(register: Register) -> None:
    register.task("classification", f"{_AT}.classification:Classification", about="one of K classes")
    register.procedure("distill", f"{_AT}.distill:Distill", about="task loss and weighted distillers, one phase")
    _datasets(register)
    _teachers(register)
    for part in (vision, text, tables, graph):
        part.register(register)
    for name, cls, about in (
        ("accuracy", "Accuracy", "share of samples whose class is found"),
        ("top5", "Top5", "share of samples whose class is among the five likeliest"),
        ("balanced_accuracy", "BalancedAccuracy", "share found of a class, mean over the classes"),
        ("nll", "NegativeLogLikelihood", "mean -log p of the class; less is better"),
        ("ece", "CalibrationError", "expected calibration error; less is better (Guo et al. 2017)"),
    ):
        register.metric(name, f"{_AT}.metrics:{cls}", about=about)
    for name, about in {
        "f1": "of a class's precision and recall, mean over the classes",
        "precision": "share of a class's answers that are right, mean over the classes",
        "recall": "share of a class's samples that are found, mean over the classes",
        "auroc": "area under the ROC curve, each class against the rest, mean over the classes",
        "average_precision": "area under precision and recall, each class against the rest, mean over the classes",
        "cohen_kappa": "agreement beyond chance",
        "matthews": "Matthews' correlation of answers and classes",
    }.items():
        cls = name.title().replace("_", "")
        register.metric(name, f"{_AT}.torch_metrics:{cls}", about=f"{about}; by torchmetrics")
    of_distillers = "minus the loss of an untrained student: one for every distiller"
    register.family("proxy", "kd", "distiller", f"{_AT}.distiller_proxy:proxy_of", about=of_distillers)
    about = "how near an untrained student's relations between samples are to the teacher's, over all stages"
    register.proxy("relation", f"{_AT}.relation_proxy:Relation", about=about)
    register.exporter("onnx", f"{_AT}.onnx_exporter:OnnxExporter", about="one ONNX file, opset 21")
    register.quantizer("int8", f"{_AT}.int8.quantizer:Int8", about="static QDQ per channel, or dynamic")
    register.quantizer("int4", f"{_AT}.int4.quantizer:Int4", about="4-bit weights in blocks, convolutions too")
    register.pruner("channels", f"{_AT}.channels.pruner:Channels", about="structured channels")
    register.sparsifier("magnitude", f"{_AT}.magnitude:Magnitude", about="zeros by magnitude, unstructured or 2:4")
    for name, about in {
        "optuna": "TPE, NSGA-II, Gaussian processes or random draws, by Optuna",
        "surrogate": "a Gaussian process over scores, architecture and recipe",
        "random": "uniform draws, each candidate once",
        "exhaustive": "every candidate of a finite space",
        "evolution": "neighbours and crossover; aging, elitist or by Pareto fronts",
    }.items():
        register.controller(name, f"{_AT}.controllers.{name}:{name.title()}", about=about)
    for name, cls, about in (
        ("halving", "Halving", "the best share of what reached a rung goes on (successive halving)"),
        ("median", "Median", "goes on unless more than half at a rung is better (Golovin et al. 2017)"),
        ("none", "Unstopped", "every trial runs through"),
    ):
        register.stopper(name, f"{_AT}.stoppers:{cls}", about=about)
    register.executor("inprocess", f"{_AT}.executors:InProcess", about="one after another in this process")
    register.executor(
        "processes", f"{_AT}.processes:Processes", about="local processes, which stay warm from trial to trial"
    )
    at = f"{_AT}.loggers"
    register.logger("csv", f"{at}.csv_files:CsvFiles", about="CSV and JSON files in DIR/log/csv")
    about = "event files in DIR/log/tensorboard"
    register.logger("tensorboard", f"{at}.tensorboard:TensorBoard", extra="tensorboard", about=about)
    about = "an SQLite store in DIR/log/mlflow, or a server"
    register.logger("mlflow", f"{at}.mlflow:Mlflow", extra="mlflow", about=about)
    about = "run folders in DIR/log/wandb, offline"
    register.logger("wandb", f"{at}.wandb:Wandb", extra="wandb", about=about)


def _datasets(register: Register) -> None:
    at = f"{_AT}.datasets"
    about = "1,797 hand-written digits, 8x8, 10 classes; always there"
    register.dataset("digits", f"{at}.digits:Digits", about=about, package=PACKAGES["digits"])
    about = "5,000 of MNIST, 28x28, 10 classes"
    register.dataset("mnist5k", f"{at}.digits:Mnist5k", extra="data", about=about, package=PACKAGES["mnist5k"])
    register.dataset("mnist", f"{at}.idx:Mnist", about="IDX files")
    about = "60,000 + 10,000 articles of clothing, 28x28, 10 classes; IDX files"
    register.dataset("fashion_mnist", f"{at}.idx:FashionMnist", about=about, package=PACKAGES["fashion_mnist"])
    register.dataset("cifar10", f"{at}.cifar:Cifar10", about="torchvision's folder layout")
    register.dataset("cifar100", f"{at}.cifar:Cifar100", about="torchvision's folder layout")
    register.dataset("image_folder", f"{at}.folder:ImageFolder", about="folder/class/image files")
    register.dataset("npz", f"{at}.npz:Npz", about="NumPy arrays of images and labels")
    about = "satellite RGB by land cover, 32x32, 10 classes"
    register.dataset("earth_tiles", f"{at}.earth:EarthTiles", about=about, package=PACKAGES["earth_tiles"])


def _teachers(register: Register) -> None:
    at = f"{_AT}.teachers"
    register.teacher("trained", f"{at}.trained:Trained", about="a member of a search space, trained by the study")
    register.teacher(
        "safetensors", f"{at}.weights_file:WeightsFile", about="weights of a space's member or a timm name"
    )
    register.teacher("table", f"{at}.table:Table", about="stored answers by sample id, from .npz or .safetensors")
    register.teacher("timm", f"{at}.timm_network:Timm", extra="timm", about="any timm name, fine-tuned where wished")
    register.teacher("onnx", f"{at}.onnx_file:Onnx", about="an ONNX file; outputs only")
    register.teacher("python", f"{at}.python_path:Python", about="code of your own; needs --allow-code")
    about = "an endpoint of the OpenAI form that writes or embeds; for data recipes"
    register.teacher("http", f"{at}.http:Http", about=about)
    register.teacher("scripted", f"{at}.scripted:Scripted", about="writes what a file says, by prompt or sample id")
    about = "a causal character model, trained in seconds; writes and embeds, to try a recipe with"
    register.teacher("tiny", f"{at}.tiny:Tiny", about=about)
    register.teacher("exported", f"{at}.exported_file:Exported", about="a .pt2 file; needs --allow-code")
    register.teacher(
        "efficientnet-lite0",
        f"{at}.efficientnet_lite0:EfficientNetLite0",
        extra="timm",
        about="ImageNet weights, 4.7 M parameters",
        package=PACKAGES["efficientnet-lite0"],
    )
