"""What a plugin's own code raises or gives is said with its name and the study's line, and is no traceback of kdsearch's."""

from __future__ import annotations

import errno
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import kdsearch
from kdsearch.engine.fits import check_fits
from kdsearch.engine.members import _loaded
from kdsearch.errors import DataError, PluginError, UserError
from kdsearch.host import Host
from kdsearch.kinds import Ask, Dim, Range
from kdsearch.stages.asked import check_ask, plain
from kdsearch.store.artifacts import Store
from kdsearch.store.folder import Events
from kdsearch.study import load_study
from kdsearch.training.adapted import adapted
from kdsearch.training.dry import check_recipe
from kdsearch.training.materials import open_materials
from kdsearch.training.tools import Tools
from kdsearch.verbs.preflight import looked_at
from tests.stages.tiny import LESS, run_tiny, run_up_to, write_study
from tests.training import faulty_plugin


@pytest.fixture(scope="module")
def host() -> Host:
    return Host.load(extra=[("faulty", faulty_plugin)])


@pytest.fixture(scope="module")
def before_pruning(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distilled")
    run_up_to(folder, "distill", *LESS)
    return folder


@pytest.fixture
def distilled(before_pruning: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(before_pruning, tmp_path / "copied"))


def faulty_data(how: str) -> str:
    return f"data={{use: faulty, options: {{how: {how}}}}}"


def look(folder: Path, host: Host, *sets: str) -> None:
    looked_at(load_study(write_study(folder), host, sets=[*LESS, *sets]), host)


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        (
            "made",
            PluginError,
            "dataset 'faulty' of live 0 fails: ValueError: odd options (in __init__, faulty_plugin.py:",
        ),
        (
            "opened",
            PluginError,
            "dataset 'faulty' of live 0 fails: FileNotFoundError: rows.csv (in open, faulty_plugin.py:",
        ),
        ("import", PluginError, "dataset 'faulty' of live 0 needs no_such_reader, which is not installed"),
        ("none", DataError, "an opened data set is a NoneType without facts, fields, split or splits"),
        ("fields", DataError, "`fields` of the opened data set (Source) are [{'name': 'image'}]"),
        ("facts", DataError, "`facts` of the opened data set (Source) are None"),
        ("notes", DataError, "`facts` of the opened data set (Source) have 'two' as notes. Expected a list of texts"),
        ("splits", DataError, "`splits` of the opened data set (Source) are None. Expected a tuple of names"),
        ("split", DataError, "split 'train' of the data set is a NoneType without ids or load"),
        ("numbers", DataError, "split 'train' has the sample id 0, no text"),
        ("dict", DataError, "split 'train' loads a dict. Expected a kdsearch.kinds.Batch"),
        (
            "ids",
            DataError,
            "split 'train' loads the samples 's3', 's2', 's1', 's0' where 's0', 's1', 's2', 's3' are asked for",
        ),
        ("lacks", DataError, "split 'train' loads no field 'image'"),
        ("array", DataError, "split 'train' loads 'image' as ndarray. Expected a torch.Tensor"),
        ("count", DataError, "4 samples' 'image' in the shape (3, 1, 8, 8). Expected (4, 1, 8, 8)"),
        ("shape", DataError, "4 samples' 'image' in the shape (4, 1, 8, 7). Expected (4, 1, 8, 8)"),
        ("dtype", DataError, "split 'train' loads 'image' as torch.float64. Expected torch.float32"),
        ("label", DataError, "'label' of sample 's0' is 5. Expected 0..2 for the 3 classes"),
        ("nan", DataError, "'image' of sample 's0' holds nan. Expected finite numbers"),
    ],
)
def test_of_a_data_set(how, error, words, host, tmp_path):
    with pytest.raises(error, match=re.escape(words)) as caught:
        look(tmp_path, host, faulty_data(how))
    assert caught.value.path.startswith("data")
    assert str(caught.value.file).startswith("--set data=")


@pytest.mark.parametrize("how", ["well", "'no target'"])
def test_a_data_set_without_a_fault_passes(how, host, tmp_path):
    materials = open_materials(load_study(write_study(tmp_path), host, sets=[*LESS, faulty_data(how)]), host)
    check_recipe(materials)


def test_a_sample_that_cannot_be_loaded_is_named(host, tmp_path):
    words = r"data: samples .* cannot be loaded: RuntimeError: the file is torn \(in torn, faulty_plugin.py"
    with pytest.raises(DataError, match=words):
        run_tiny(tmp_path, *LESS, faulty_data("torn"), host=host)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("raise", "task 'faulty' of live 0 fails: KeyError: 'names' (in io, faulty_plugin.py:"),
        ("none", "`io` of task 'faulty' gives a NoneType. Expected a kdsearch.kinds.IO"),
    ],
)
def test_of_a_task(how, words, host, tmp_path):
    with pytest.raises(PluginError, match=re.escape(words)) as caught:
        look(tmp_path, host, f"task={{use: faulty, options: {{how: {how}}}}}")
    assert caught.value.path == "data"


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("raise", "teacher 'faulty' of live 0 fails: ValueError: no weights (in model, faulty_plugin.py:"),
        ("module", "`model` of teacher 'faulty' gives a Linear. Expected a kdsearch.kinds.Model"),
    ],
)
def test_of_a_teacher(how, words, host, tmp_path):
    with pytest.raises(PluginError, match=re.escape(words)) as caught:
        look(tmp_path, host, f"teacher={{use: faulty, options: {{how: {how}}}}}")
    assert caught.value.path == "teacher.options"


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (
            "raise",
            "search space 'faulty' of live 0 fails: ValueError: nothing to draw from (in sample, faulty_plugin.py:",
        ),
        ("sample", "`sample` of the search space gives {'width': 4}. Expected its options"),
        ("canonical", "`canonical` of the search space gives None. Expected its options"),
        ("cost", "`cost` of the search space gives (1, 2). Expected a kdsearch.kinds.Cost, or None"),
        ("build", "`build` of search space FaultySpace gives a Sequential. Expected a kdsearch.kinds.Model"),
        ("none", "`build` of search space FaultySpace gives a NoneType. Expected a kdsearch.kinds.Model"),
        ("classes", "`build` of the search space answers 'logits' in the shape (4, 7). Expected (4, 10), as `io` says"),
    ],
)
def test_of_a_search_space(how, words, host, tmp_path):
    with pytest.raises(PluginError, match=re.escape(words)) as caught:
        look(tmp_path, host, f"student={{space: faulty, spec: {{how: {how}}}}}", "search.proxy=params")
    assert caught.value.path == "student.space"
    assert str(caught.value.file).startswith("--set student=")


def test_a_procedure_that_adapts_is_handed_models_alone():
    class Unfinished(faulty_plugin.FaultySpace):
        def build(self, spec, io):
            return None

    changed = []
    with pytest.raises(PluginError, match="`build` of search space Unfinished gives a NoneType"):
        adapted(Unfinished(), changed.append).build(faulty_plugin.FaultySpec(), None)
    assert not changed


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("raise", "proxy 'faulty' fails: ValueError: no such tap (in taps, faulty_plugin.py:"),
        ("none", "`taps` of proxy 'faulty' gives None"),
        ("one", "`taps` of proxy 'faulty' gives 'logits'. Expected a list of names"),
        (
            "role",
            "`taps` of proxy 'faulty' gives taps of the role 'studnet'; did you mean 'student'? Expected student or teacher",
        ),
        ("none score", "proxy 'faulty' gives None as a score. Expected a number"),
        ("text score", "proxy 'faulty' gives '0.5' as a score. Expected a number"),
        ("vector", "proxy 'faulty' gives a Tensor of the shape (3,) as a score. Expected a number"),
        (
            "fit",
            "proxy 'faulty' fails on a sample of the space: ZeroDivisionError: no sample (in fit, faulty_plugin.py:",
        ),
    ],
)
def test_of_a_proxy(how, words, host, tmp_path):
    with pytest.raises(PluginError, match=re.escape(words)) as caught:
        look(tmp_path, host, f"search.proxy=[{{use: faulty, options: {{how: {how}}}}}, params]")
    assert caught.value.path == "search.proxy[0]"


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("raise", "controller 'faulty' of live 0 fails: ZeroDivisionError: no trial yet (in ask, faulty_plugin.py:"),
        ("none", "`ask` of the controller gives a NoneType. Expected a list of kdsearch.kinds.Ask"),
        ("map", "`ask` of the controller gives a dict. Expected a list of kdsearch.kinds.Ask"),
        ("nothing", "the controller asks for None. Expected a kdsearch.kinds.Ask"),
        ("dict", "the controller asks for {"),
        ("lacks", "the controller's candidate has no value for '"),
        ("nan", "the controller asks for nan of '"),
        ("far", "the controller asks for 1000000000.0 of '"),
        ("text", "the controller asks for '0.5' of '"),
    ],
)
def test_of_a_controller(how, words, host, distilled):
    sets = f"refine.controller={{use: faulty, options: {{how: {how}}}}}"
    with pytest.raises(PluginError, match=re.escape(words)) as caught:
        run_tiny(distilled, *LESS, sets, host=host)
    assert caught.value.path == "refine.controller"


@pytest.mark.parametrize("how", ["tensor", "well"])
def test_a_proxys_number_may_be_a_librarys(how, host, tmp_path):
    look(tmp_path, host, f"search.proxy=[{{use: faulty, options: {{how: {how}}}}}, params]")


def test_of_a_strategy_before_any_work(host, tmp_path):
    with pytest.raises(PluginError, match=r"`ask` of the controller gives a NoneType\. Expected a list of") as caught:
        look(tmp_path, host, "search.strategy={use: faulty, options: {how: none}}")
    assert caught.value.path == "search.strategy"


def test_numpys_numbers_are_numbers():
    dims = [
        Dim("x", Range(low=0.25, high=1.0)),
        Dim("n", Range(low=1, high=4, integer=True)),
        Dim("flag", Range((True, False))),
    ]
    dims.append(Dim("widths", Range(low=4, high=8, integer=True, each=2)))
    values = {"x": np.float32(0.5), "n": np.int64(2), "flag": np.bool_(False), "widths": (np.int32(4), 8)}
    found = plain(Ask(values))
    check_ask(found, dims)
    assert found == Ask({"x": 0.5, "n": 2, "flag": False, "widths": (4, 8)})
    assert {type(value) for value in (*found.values.values(), *found.values["widths"])} == {float, int, bool, tuple}
    with pytest.raises(PluginError, match=r"asks for 1\.5 of 'x'\. Expected 0\.25 to 1"):
        check_ask(plain(Ask({**values, "x": np.float32(1.5)})), dims)


def test_of_a_teachers_view(host, tmp_path):
    with pytest.raises(
        PluginError, match=r"`view` of teacher 'seen' gives a NoneType\. Expected a kdsearch.kinds.Batch"
    ):
        look(tmp_path, host, "teacher={use: faulty, options: {how: view}}", "search.proxy=params")


def test_of_a_controller_before_any_work(host, tmp_path):
    words = "controller 'faulty' of live 0 fails: ValueError: no licence (in preflight, faulty_plugin.py:"
    with pytest.raises(PluginError, match=re.escape(words)) as caught:
        look(tmp_path, host, "refine.controller={use: faulty, options: {how: preflight}}")
    assert caught.value.path == "refine.controller"


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("raise", "stopper 'faulty' of live 0 fails: ZeroDivisionError: no rung yet (in rungs, faulty_plugin.py:"),
        ("none", "`rungs` of the stopper gives None. Expected increasing shares between 0 and 1"),
        ("text", "`rungs` of the stopper gives ['half']"),
        ("per cent", "`rungs` of the stopper gives (34,)"),
        ("down", "`rungs` of the stopper gives (0.6, 0.3)"),
        ("one", "`rungs` of the stopper gives 0.5"),
    ],
)
def test_of_a_stopper_before_any_work(how, words, host, tmp_path):
    with pytest.raises(PluginError, match=re.escape(words)) as caught:
        look(tmp_path, host, f"refine.stopper={{use: faulty, options: {{how: {how}}}}}")
    assert caught.value.path == "refine.stopper"
    assert str(caught.value.file).startswith("--set refine.stopper=")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("none", "`wait` of executor FaultyExecutor gives None. Expected a list of kdsearch.kinds.Done"),
        ("name", "`wait` of executor FaultyExecutor gives ['dry']"),
        ("lost", "the executor gives {} as the value of job '"),
    ],
)
def test_of_an_executor(how, words, host, tmp_path):
    with pytest.raises(PluginError, match=re.escape(words)) as caught:
        run_tiny(tmp_path, *LESS, f"run.executor={{use: faulty, options: {{how: {how}}}}}", host=host)
    assert caught.value.path == "run.executor"
    assert str(caught.value.file).startswith("--set run.executor=")


def test_what_an_executor_raises_when_it_is_closed_loses_nothing(host, tmp_path, capsys):
    materials = open_materials(load_study(write_study(tmp_path), host, sets=[CLOSES]), host)
    tools = Tools(Store(tmp_path), Events(tmp_path / "events.jsonl", lambda event: None), tmp_path)
    tools.executor(materials)
    tools.close()
    tools.close()
    said = capsys.readouterr().err
    assert re.fullmatch(
        r"executor FaultyExecutor could not be closed: OSError: no such process \(in close, .*\)\n", said
    )


CLOSES = "run.executor={use: faulty, options: {how: close}}"


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("raise", "pruner 'faulty' of live 0 fails: ValueError: no such layer (in plan, faulty_plugin.py:"),
        ("plan", "`plan` of FaultyPruner gives a NoneType. Expected a kdsearch.kinds.Plan"),
        ("apply", "`apply` of FaultyPruner gives a CifarResNet. Expected a kdsearch.kinds.Model"),
    ],
)
def test_of_a_pruner(how, words, host, distilled):
    sets = f"compress.prune={{use: faulty, options: {{how: {how}}}}}"
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        run_tiny(distilled, *LESS, sets, host=host)
    assert caught.value.path == "compress.prune.use"


def test_of_a_quantizer(host, distilled):
    sets = ("compress.quantize=[int8, faulty]", "export.formats=[onnx-faulty]")
    with pytest.raises(PluginError, match="`plan` of FaultyQuantizer gives a NoneType") as caught:
        run_tiny(distilled, *LESS, *sets, host=host)
    assert caught.value.path == "compress.quantize[1]"


def test_of_a_quantizer_whose_file_is_limited(host, tmp_path):
    limit = "constraints={onnx_bytes: {max: 100000, format: onnx-faulty}}"
    sets = ("compress.quantize=[faulty]", "export.formats=[onnx-faulty]", limit)
    with pytest.raises(PluginError, match="`plan` of FaultyQuantizer gives a NoneType") as caught:
        run_tiny(tmp_path, *LESS, *sets, host=host)
    assert caught.value.path == "compress.quantize[0]"
    assert str(caught.value.file).startswith("--set compress.quantize=")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("raise", "distiller 'faulty' of live 0 fails: ValueError: no such tap (in taps, faulty_plugin.py:"),
        ("taps", "`taps` of distiller 'faulty' gives None. Expected a list of names by role"),
        ("one tap", "`taps` of distiller 'faulty' gives {'student': 'logits'}"),
        ("constants", "`constants` of distiller 'faulty' gives None. Expected a finite number by term"),
        ("text", "`constants` of distiller 'faulty' gives {'logits': '2'}"),
        ("nan", "`constants` of distiller 'faulty' gives {'logits': nan}. Expected a finite number by term"),
        ("dot", "`constants` of distiller 'faulty' has a term named 'a.b'. Expected a name of 1 to 64 letters"),
        ("terms", "`named_terms` of distiller 'faulty' gives 'logits'. Expected a list of names"),
        ("name", "`named_terms` of distiller 'faulty' gives a term named 'a.b'. Expected a name of 1 to 64 letters"),
        (
            "role",
            "`taps` of distiller 'faulty' gives taps of the role 'studnet'; did you mean 'student'? Expected main, student or",
        ),
        ("builds", "`build` of distiller 'faulty' fails: ValueError: no such width (in build, faulty_plugin.py:"),
        ("exits", "`build` of distiller 'faulty' fails: SystemExit: 3 (in build, faulty_plugin.py:"),
        ("stops", "`build` of distiller 'faulty' fails: Stop: here (in build, faulty_plugin.py:"),
        ("factors", "`lr_factors` of distiller 'faulty' fails: KeyError: 'own' (in lr_factors, faulty_plugin.py:"),
        ("list", "distiller 'faulty': `lr_factors` gives ['own.*']. Expected a factor on the learning rate by glob"),
        (
            "glob",
            "distiller 'faulty': `lr_factors` gives a factor for 'on.*', which matches no parameter. Expected a glob on own.bias",
        ),
        (
            "below",
            "distiller 'faulty': `lr_factors` gives -0.1 for 'own.*'. Expected a finite number of at least 0, or a",
        ),
        ("no factor", "distiller 'faulty': `lr_factors` gives nan for 'own.*'. Expected a finite number of at least 0"),
        ("word", "distiller 'faulty': `lr_factors` gives '0.5' for 'own.*'. Expected a finite number of at least 0"),
        (
            "late word",
            "distiller 'faulty': `lr_factors` gives '0.5' for 'own.*'. Expected a finite number of at least 0",
        ),
        ("gives none", "distiller 'faulty' gave NoneType. Expected a mapping of names to scalars"),
        ("gives a list", "distiller 'faulty' gave list. Expected a mapping of names to scalars"),
        ("gives nothing", "distiller 'faulty' gives no terms. Expected one or more named scalars"),
        (
            "gives a dot",
            "distiller 'faulty' gave a term named 'a.b'. Expected a name of 1 to 64 letters, digits, '_' or '-'",
        ),
        (
            "late",
            "`on_step_end` of distiller 'faulty' registers 'queue'. Expected what it keeps registered in __init__",
        ),
    ],
)
def test_of_a_distiller(how, words, host, tmp_path):
    with pytest.raises(PluginError, match=re.escape(words)) as caught:
        look(tmp_path, host, f"recipe.distillers=[kd, {{use: faulty, options: {{how: {how}}}}}]")
    assert caught.value.path == "recipe.distillers[1]"
    assert str(caught.value.file).startswith("--set recipe.distillers=")


def test_a_distiller_without_a_fault_passes(host, tmp_path):
    materials = open_materials(
        load_study(write_study(tmp_path), host, sets=[*LESS, "recipe.distillers=[faulty]"]), host
    )
    check_recipe(materials)


def test_of_a_distiller_without_a_study():
    network = torch.nn.Linear(8, 3)
    faulty = {
        how: faulty_plugin.FaultyDistiller(faulty_plugin.HowOptions(how=how)) for how in ("taps", "role", "gives none")
    }
    with pytest.raises(PluginError, match="`taps` of distiller 'FaultyDistiller' gives None"):
        kdsearch.Distillation(network, network, [faulty["taps"]], torch.zeros(2, 8))
    with pytest.raises(PluginError, match=r"the role 'studnet'; did you mean 'student'\? Expected student or teacher"):
        kdsearch.Distillation(network, network, [faulty["role"]], torch.zeros(2, 8))
    both = kdsearch.Distillation(network, network, [faulty["gives none"]], torch.zeros(2, 8))
    with pytest.raises(PluginError, match=r"distiller 'FaultyDistiller' gave NoneType\. Expected a mapping of names"):
        both(torch.zeros(2, 8))


def test_what_a_plugin_raises_wherever_it_runs_has_its_name(host):
    try:
        faulty_plugin.torn(faulty_plugin.Batch(("s7",), {}))
    except RuntimeError as error:
        blamed = host.blamed(error)
        assert host.blamed(ValueError("of kdsearch itself")) is None
    assert str(blamed).startswith("plugin 'faulty' of live 0 fails: RuntimeError: the file is torn (in torn, ")


def test_the_test_split_is_not_looked_at(host, tmp_path):
    source = open_materials(load_study(write_study(tmp_path), host, sets=LESS), host).given.source
    read = []

    class Watched:
        def __init__(self, name):
            self.name, self.own = name, source.split(source.splits[0])
            self.ids = self.own.ids

        def load(self, *arguments):
            read.append(self.name)
            return self.own.load(*arguments)

    check_fits(SimpleNamespace(fields=source.fields, splits=("train", "val", "test"), split=Watched))
    assert read == ["train", "val"]


def test_a_full_disk_is_nobody_s_sample():
    class Full:
        ids = ("a", "b")

        def load(self, rows, augment, seed):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        _loaded(Full(), [0], False, 0)


def test_of_a_conditional_dimension_only_what_counts_is_asked_for():
    dims = [
        Dim("loss", Range(choices=("kd", "dkd"))),
        Dim("alpha", Range(low=0.0, high=1.0), when=(("loss", ("dkd",)),)),
    ]
    check_ask(Ask({"loss": "kd"}), dims)
    check_ask(Ask({"loss": "dkd", "alpha": 0.5}), dims)
    with pytest.raises(PluginError, match=r"no value for 'alpha'\. Expected 0 to 1"):
        check_ask(Ask({"loss": "dkd"}), dims)
