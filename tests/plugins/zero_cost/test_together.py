"""All scores of one candidate on one probe: passes are shared, and no score depends on its company."""

from importlib import import_module
from typing import Any

import torch
from kdsearch_plugins import zero_cost

from kdsearch.hooks import Register
from kdsearch.kinds import Batch, Model
from kdsearch.ops.init import gaussian_init
from kdsearch.search.probe import LiveProbe
from kdsearch.search.trace import Trace
from kdsearch.testing.models import noise_batch, small_resnet
from kdsearch.testing.probe import HandProbe

TENSORS = noise_batch(6, image=(3, 6, 6))


def proxies() -> dict[str, Any]:
    register = Register()
    zero_cost.kdsearch_register(register)
    made = {}
    for entry in register.entries:
        module, _, name = entry.target.partition(":")
        cls = getattr(import_module(module), name)
        made[entry.name] = cls(cls.options_class())
    return made


def scores(names: list[str], student: Model, made: dict[str, Any]) -> dict[str, float]:
    """As the host scores a candidate; every proxy finds it untouched."""
    hand = HandProbe(TENSORS)
    probe = LiveProbe(Batch(hand.batch.ids, TENSORS), hand.io, hand.task)
    trace = Trace(student.module)
    probe.bind(student, trace, 7)
    found = {}
    for name in names:
        assert trace.unchanged(student.module)
        probe.rebind(student, trace)
        torch.manual_seed(7)
        found[name] = made[name].score(student, probe)
    return found


def test_no_score_depends_on_its_company_and_passes_are_shared() -> None:
    made = proxies()
    student, sample = small_resnet(image=(3, 6, 6)), [small_resnet((4, w), image=(3, 6, 6)) for w in (6, 8)]
    gaussian_init(student.module, torch.Generator().manual_seed(0))
    for name in ("az_nas", "swap_reg"):
        made[name].fit(sample, HandProbe(TENSORS))
    calls: list[int] = []
    student.module.classifier.register_forward_hook(lambda *_: calls.append(1))
    together = scores(list(made), student, made)
    shared = len(calls)
    assert scores(list(made)[::-1], student, made) == together
    calls.clear()
    for name in made:
        assert scores([name], student, made) == {name: together[name]}
    # alone: 2 more of snip's, 1 of jacob_cov's, 2 of nwot's and 1 of expressivity's passes, and az_nas's two terms
    assert len(calls) - shared == 2 + 1 + 2 + 1 + 1


def test_data_are_needed_where_they_are_read() -> None:
    without = {name for name, proxy in proxies().items() if not proxy.needs_data}
    assert without == {"params", "macs", "complexity", "layers", "l2_norm", "synflow", "synflow_bn", "zen"}
    assert {name for name, proxy in proxies().items() if proxy.init == "gaussian"} == {"zen"}
    assert not any(proxy.needs_teacher for proxy in proxies().values())
