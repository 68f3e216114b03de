"""Installed and outside exporters keep the contract of exporters, and each rule finds the exporter that breaks it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from kdsearch.host import Host
from kdsearch.kinds import NoOptions
from kdsearch.testing.contract import failures
from kdsearch.testing.exporter import ExporterContract
from tests.outside.conftest import HERE
from tests.testing.extras import installed

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(HERE))
    from kdsearch_little import FxOnnx

INSTALLED = Host.load().names("exporter")


@pytest.mark.parametrize("name", INSTALLED)
def test_installed_exporters_conform(name):
    exporter = installed("exporter", name)
    assert failures(type("Contract", (ExporterContract,), {"exporter": exporter})) == {}


class TestFxOnnx(ExporterContract):
    exporter = FxOnnx


def breaking(**members: Any) -> type[ExporterContract]:
    broken = type("Broken", (FxOnnx,), {"options_class": NoOptions, **members})
    return type("Contract", (ExporterContract,), {"exporter": broken})


def writes_nothing(self, graph, example, file):
    pass


def writes_beside(self, graph, example, file):
    FxOnnx.write(self, graph, example, file)
    file.with_suffix(".txt").write_text("notes")


def rounds(self, graph, example, file):
    with torch.no_grad():
        kept = [weight.clone() for weight in graph.module.parameters()]
        for weight in graph.module.parameters():
            weight.copy_((weight * 8).round() / 8)
        FxOnnx.write(self, graph, example, file)
        for weight, value in zip(graph.module.parameters(), kept, strict=True):
            weight.copy_(value)


def names_a_folder(self, graph, example, file):
    FxOnnx.write(self, graph, example, file)
    FxOnnx.label(self, file, {"from": str(Path.cwd())})


def draws(self, graph, example, file):
    FxOnnx.write(self, graph, example, file)
    FxOnnx.label(self, file, {"id": str(len(DRAWN))})
    DRAWN.append(1)


DRAWN: list[int] = []


def leaves_eval(self, graph, example, file):
    graph.module.eval()
    FxOnnx.write(self, graph, example, file)


def first_output_alone(self, file, threads=1):
    call = FxOnnx.load(self, file, threads)
    return lambda *inputs: dict(list(call(*inputs).items())[:1])


def one_sample(self, file, threads=1):
    call = FxOnnx.load(self, file, threads)
    return lambda *inputs: {name: value[:1] for name, value in call(*inputs).items()}


def labels_anew(self, file, about):
    FxOnnx.label(self, file, {**about, "again": str(file.stat().st_size)})


def labels_beside(self, file, about):
    file.with_suffix(".json").write_text(str(about))


def takes_anything(self, file, threads=1):
    try:
        return FxOnnx.load(self, file, threads)
    except Exception:
        return lambda *inputs: {}


def raises_its_own(self, file, threads=1):
    if not file.exists():
        raise FileNotFoundError(file)
    return FxOnnx.load(self, file, threads)


FAULTS = [
    ({"write": writes_nothing}, "test_there_is_one_file", "nothing is written"),
    ({"write": writes_beside}, "test_there_is_one_file", "there is also net.txt"),
    ({"write": rounds}, "test_the_file_answers_as_the_network_does", "from the network's"),
    ({"load": first_output_alone}, "test_the_file_answers_as_the_network_does", "the file answers"),
    ({"load": one_sample}, "test_the_file_answers_as_the_network_does", "2 samples give"),
    ({"write": draws}, "test_equal_weights_equal_bytes_without_paths", "different files"),
    ({"write": names_a_folder}, "test_equal_weights_equal_bytes_without_paths", "the file names"),
    ({"write": leaves_eval}, "test_the_network_is_left_as_it_was", "training"),
    ({"label": labels_anew}, "test_a_label_changes_no_answer", "labelled again alike"),
    ({"label": labels_beside}, "test_a_label_changes_no_answer", "leaves files"),
    ({"load": takes_anything}, "test_what_is_no_file_of_its_own_is_refused", "a cut file is loaded"),
    ({"load": raises_its_own}, "test_what_is_no_file_of_its_own_is_refused", "FileNotFoundError"),
]


@pytest.mark.parametrize(("members", "test", "says"), FAULTS)
def test_a_faulty_exporter_is_found(members, test, says):
    found = failures(breaking(**members), test)
    assert says in found.get(test, "(it passed)"), found


def test_every_rule_has_an_exporter_that_breaks_it():
    assert {test for _, test, _ in FAULTS} == {each for each in dir(ExporterContract) if each.startswith("test_")}
