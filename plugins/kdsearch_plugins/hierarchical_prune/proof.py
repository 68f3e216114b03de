"""The small real proof: a tiny MMDiT that draws digits, cut by its contributions, recovered and rounded to 4 bits.

    python -m kdsearch_plugins.hierarchical_prune.proof --seeds 0,1,2 --cache DIR --out proof.json

A seed is a teacher's; about 8 minutes of CPU each. What is trained or measured is kept in the cache: a killed proof goes on.
Prints each comparison and the pass bar; exit code 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Generator, Tensor, nn

from kdsearch.kit.blocks import ALL, Part, edits_of, removed, surgery
from kdsearch.ops.noise import Flow
from kdsearch.ops.record import hooked
from kdsearch_plugins.hierarchical_prune.contribution import Evaluator, contributions
from kdsearch_plugins.hierarchical_prune.freezing import preserved
from kdsearch_plugins.hierarchical_prune.losses import kd_feat, kd_out
from kdsearch_plugins.hierarchical_prune.mmdit import TinyMmdit
from kdsearch_plugins.hierarchical_prune.nf4 import file_bytes, rounded
from kdsearch_plugins.hierarchical_prune.quality import Digits, Quality, trained_classifier
from kdsearch_plugins.hierarchical_prune.scores import Cut, cut_to, ordered

NOISE_SEEDS = (1, 2)  # of what is reported; parts are chosen by seed 0, and against training features
DROP = 0.1  # conditions that are replaced by none
LAMBDA_FEAT = 1e-4


def flow_batch(data: Digits, n: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x_t, level, class, v and x0 of n training digits; all draws are from the generator."""
    rows = torch.randint(len(data.train), (n,), generator=generator)
    x0, level = data.train[rows], Flow().sample_level(n, generator)
    eps = torch.randn(x0.shape, generator=generator)
    cond = data.train_labels[rows].masked_fill(torch.rand(n, generator=generator) < DROP, 10)
    return Flow().add_noise(x0, eps, level), level, cond, Flow().target(x0, eps, level), x0


def trained_teacher(data: Digits, seed: int, steps: int = 2000, batch: int = 128) -> TinyMmdit:
    """Flow matching; AdamW 2e-3, one cycle with a tenth of warm-up, gradient norm at most 1."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = TinyMmdit()
    generator = Generator().manual_seed(1000 + seed)
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        x, level, cond, v, _ = flow_batch(data, batch, generator)
        loss = (net(x, level, cond) - v).square().mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        cycle.step()
    return net.eval()


def tapped(net: TinyMmdit, kept: Sequence[int], call: Callable[[], Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The answer, and both streams of these blocks; the last block's context is nobody's."""
    found: dict[str, Tensor] = {}

    def see(index: int) -> Any:
        def keep(out: Any, _: Any) -> None:
            found[f"{index}.h"] = out[0]
            if index < len(net.blocks) - 1:
                found[f"{index}.c"] = out[1]

        return keep

    with hooked([(net.blocks[index], "output", see(index)) for index in kept]):
        return call(), found


def recovered(
    data: Digits, teacher: TinyMmdit, parts: Sequence[Part], distil: bool, pwp: bool, seed: int, steps: int = 300
) -> tuple[TinyMmdit, dict[str, float]]:
    """The cut network after `steps` of batch 64, AdamW 5e-4: from the teacher (L_KD + L_feat), or by flow matching alone."""
    blocks = teacher.block_list()
    student = copy.deepcopy(teacher)
    frozen = preserved(student, blocks, parts, "identity") if pwp else set()
    removed(student, edits_of(blocks, parts, "identity"))
    for name, weight in student.named_parameters():
        weight.requires_grad_(name not in frozen)
    trained = [each for each in student.parameters() if each.requires_grad]
    gone = {index for index, component in parts if component == ALL}
    kept = [
        block.index
        for block in blocks
        if block.index not in gone and any(each.requires_grad for each in student.blocks[block.index].parameters())
    ]
    optimiser = torch.optim.AdamW(trained, 5e-4, weight_decay=1e-4)
    generator = Generator().manual_seed(2000 + seed)
    began = time.process_time()
    for _ in range(steps):
        x, level, cond, v, _ = flow_batch(data, 64, generator)
        if distil:
            with torch.no_grad():
                v_t, h_t = tapped(teacher, kept, lambda x=x, level=level, cond=cond: teacher(x, level, cond))  # type: ignore[misc]
            v_s, h_s = tapped(student, kept, lambda x=x, level=level, cond=cond: student(x, level, cond))  # type: ignore[misc]
            loss = kd_out({"v": v_s}, {"v": v_t})
            features = kd_feat(h_s, h_t, list(h_t))
            loss = loss if features is None else loss + LAMBDA_FEAT * features
        else:
            loss = (student(x, level, cond) - v).square().mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
    cost = {"cpu_s": time.process_time() - began, "trained": sum(each.numel() for each in trained)}
    return student.eval(), cost


@dataclass
class Kept:
    """Values by key in a JSON file, written as they are made."""

    file: Path

    def once(self, key: str, make: Callable[[], Any]) -> Any:
        found: dict[str, Any] = json.loads(self.file.read_text(encoding="utf-8")) if self.file.exists() else {}
        if key not in found:
            found[key] = make()
            part = self.file.with_suffix(".part")
            part.write_text(json.dumps(found), encoding="utf-8")
            part.replace(self.file)
        return found[key]

    def network(self, name: str, make: Callable[[], nn.Module], empty: Callable[[], nn.Module]) -> nn.Module:
        from kdsearch.kit.weights import read, write

        file = self.file.with_name(f"{name}.safetensors")
        if not file.exists():
            write(file, make().state_dict())
        net = empty()
        net.load_state_dict(read(file))
        return net.eval()


def prove(seed: int, cache: Path, training_seeds: Sequence[int] = (0, 1)) -> dict[str, Any]:
    """All figures of one teacher."""
    cache.mkdir(parents=True, exist_ok=True)
    data, kept = Digits.load(), Kept(cache / f"values-{seed}.json")
    classifier = kept.network("classifier", lambda: trained_classifier(data), lambda: trained_classifier(data, steps=0))
    teacher = kept.network(f"teacher-{seed}", lambda: trained_teacher(data, seed), TinyMmdit)
    assert isinstance(teacher, TinyMmdit)
    calibration, report = (Quality.against(classifier, each) for each in (data.train, data.held_out))  # type: ignore[arg-type]
    blocks = teacher.block_list()
    evaluator = Evaluator("FD, 500 samples", lambda net: -calibration.of(net, 0)[0], kept.once, 0)
    components = [(block.index, name) for block in blocks for name in block.components]
    whole = [(block.index, ALL) for block in blocks]
    delta = contributions(teacher, blocks, [*components, *whole], "identity", evaluator)
    size = sum(each.numel() for each in teacher.parameters())

    def ratio(parts: Sequence[Part]) -> float:
        with surgery(teacher, blocks, parts):
            return sum(each.numel() for each in teacher.parameters()) / size

    def cut(order: Sequence[Part], target: float = 0.75) -> list[Part]:
        found = Cut()
        cut_to(order, blocks, ratio, target, found)
        return found.parts

    def judged(key: str, net: Callable[[], nn.Module]) -> dict[str, Any]:
        def make() -> dict[str, Any]:
            made = net()
            pairs = [report.of(made, noise) for noise in NOISE_SEEDS]
            return {"fd": [fd for fd, _ in pairs], "accuracy": mean(accuracy for _, accuracy in pairs)}

        found: dict[str, Any] = kept.once(f"judged {key}", make)
        return found

    def judged_cut(key: str, parts: Sequence[Part]) -> dict[str, Any]:
        with ExitStack() as stack:
            found = judged(f"{key} {parts}", lambda: stack.enter_context(surgery(teacher, blocks, parts)))
        return {"cut": 1 - ratio(parts), **found}

    def ranked(of: Sequence[Part], position: Any) -> list[Part]:
        return ordered({part: delta[part] for part in of}, len(blocks), position)

    plan, plan_blocks = cut(ranked(components, "intent")), cut(ranked(whole, "intent"))
    cuts = {
        f"component, {each}": judged_cut("component", cut(ranked(components, each)))
        for each in ("intent", "literal", "none")
    }
    cuts |= {
        f"whole blocks, {each}": judged_cut("blocks", cut(ranked(whole, each)))
        for each in ("intent", "literal", "none")
    }
    cuts["earliest first"] = judged_cut("blocks", [(0, ALL), (1, ALL)])
    late = sorted(components, key=lambda part: (-part[0], components.index(part)))
    cuts["component, latest first"] = judged_cut("component", cut(late))
    for draw in range(4):
        order = random.Random(100 * seed + draw).sample(components, len(components))
        cuts[f"component, random {draw}"] = judged_cut("component", cut(order))

    def arm(name: str, parts: Sequence[Part], distil: bool, pwp: bool, training: int) -> dict[str, Any]:
        costs: dict[str, float] = {}

        def make() -> nn.Module:
            net, cost = recovered(data, teacher, parts, distil, pwp, training)
            costs.update(kept.once(f"cost {name} {training}", lambda: cost))
            return net

        def empty() -> nn.Module:
            return removed(copy.deepcopy(teacher), edits_of(blocks, parts, "identity"))

        net = kept.network(f"{name.replace(' ', '_')}-{seed}-{training}", make, empty)
        found = judged(f"{name} {training} {parts}", lambda: net)
        return {**found, **kept.once(f"cost {name} {training}", dict), "training_seed": training, "net": net}

    arms: dict[str, list[dict[str, Any]]] = {}
    for distil, word in ((True, "KD"), (False, "flow matching")):
        for pwp in (True, False):
            name = f"{'PWP' if pwp else 'all'} and {word}"
            arms[name] = [arm(name, plan_blocks, distil, pwp, each) for each in training_seeds]
    arms["component plan, PWP and KD"] = [arm("component plan", plan, True, True, training_seeds[0])]
    nets = {
        "teacher": teacher,
        "component plan": arms["component plan, PWP and KD"][0]["net"],
        "block plan": arms["PWP and KD"][0]["net"],
    }
    quantised = {
        name: {
            "bytes": {kind: file_bytes(net, kind) for kind in ("fp32", "nf4")},
            "fp32": judged(f"fp32 {name} {plan} {plan_blocks}", lambda net=net: net),  # type: ignore[misc]
            **{
                kind: judged(f"{kind} {name} {plan} {plan_blocks}", lambda net=net, kind=kind: rounded(net, kind))  # type: ignore[misc]
                for kind in ("nf4", "int4")
            },
        }
        for name, net in nets.items()
    }
    for each in (one for many in arms.values() for one in many):
        del each["net"]
    return {
        "seed": seed,
        "delta": {f"{index}.{name}": value for (index, name), value in delta.items()},
        "plan": plan,
        "block_plan": plan_blocks,
        "teacher": judged("teacher", lambda: teacher),
        "cuts": cuts,
        "arms": arms,
        "quantised": quantised,
    }


def verdicts(found: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The pass bar, over all seeds: bar -> {passed, of each seed}."""

    def fd(row: Mapping[str, Any]) -> float:
        return float(mean(row["fd"]))

    def arms(one: Mapping[str, Any], name: str) -> list[float]:
        return [value for row in one["arms"][name] for value in row["fd"]]

    first, recovery, bits, pairs, gaps, savings = [], [], [], [], [], []
    for one in found:
        cuts, plan = one["cuts"], one["cuts"]["component, intent"]
        draws = min(fd(row) for name, row in cuts.items() if "random" in name)
        first.append(fd(plan) <= min(fd(cuts["earliest first"]), draws) / 4 and plan["accuracy"] >= 0.95)
        pairs += [a - b for a, b in zip(arms(one, "all and KD"), arms(one, "all and flow matching"), strict=True)]
        kd, teacher = one["arms"]["PWP and KD"], fd(one["teacher"])
        component = one["arms"]["component plan, PWP and KD"][0]
        good = mean(arms(one, "PWP and KD")) <= teacher + 0.6 and mean(row["accuracy"] for row in kd) >= 0.98
        recovery.append(good and fd(component) <= teacher + 0.3)
        gaps += [a - b for a, b in zip(arms(one, "PWP and KD"), arms(one, "all and KD"), strict=True)]
        spent = [mean(row["cpu_s"] for row in one["arms"][name]) for name in ("PWP and KD", "all and KD")]
        savings.append(1 - spent[0] / spent[1])
        for row in one["quantised"].values():
            small = row["bytes"]["nf4"] <= 0.17 * row["bytes"]["fp32"]
            bits.append((fd(row["nf4"]) - fd(row["fp32"]), row["fp32"]["accuracy"] - row["nf4"]["accuracy"], small))
    return {
        "1 measured parts against early and random ones": {"passed": all(first), "seeds": first},
        "2 distillation against flow matching": {
            "passed": mean(pairs) <= -0.2 and sum(each < 0 for each in pairs) >= 0.75 * len(pairs),
            "pairs": pairs,
        },
        "3 recovery": {"passed": all(recovery), "seeds": recovery},
        "4 PWP is no worse, for less": {
            "passed": mean(gaps) <= 0.3 and mean(savings) >= 0.2,
            "gaps": gaps,
            "cpu_saved": savings,
        },
        "5 four bits": {
            "passed": max(b[0] for b in bits) <= 0.9
            and mean(b[0] for b in bits) <= 0.6
            and max(b[1] for b in bits) <= 0.02
            and all(b[2] for b in bits),
            "rises": [b[0] for b in bits],
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--cache", type=Path, default=Path("hierarchical_prune_proof"))
    parser.add_argument("--out", type=Path, default=None)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for seed in (int(each) for each in asked.seeds.split(",")):
        found.append(prove(seed, asked.cache))
        _show(found[-1])
    bars = verdicts(found)
    for name, bar in bars.items():
        print(f"{'pass' if bar['passed'] else 'FAIL'}  {name}")
    if asked.out:
        asked.out.write_text(json.dumps({"seeds": found, "bars": bars}, indent=1), encoding="utf-8")
    return 0 if all(bar["passed"] for bar in bars.values()) else 1


def _show(one: Mapping[str, Any]) -> None:
    def line(name: str, row: Mapping[str, Any]) -> str:
        cut = f" cut {row['cut']:.1%}" if "cut" in row else ""
        spent = f" {row['cpu_s']:.0f} CPU-s, {row['trained']:,} trained" if "cpu_s" in row else ""
        return f"  {name:34} FD {' '.join(f'{each:6.2f}' for each in row['fd'])}  accuracy {row['accuracy']:.3f}{cut}{spent}"

    print(f"seed {one['seed']}: parts {one['plan']}, blocks {one['block_plan']}")
    print(line("teacher", one["teacher"]))
    for name, row in one["cuts"].items():
        print(line(name, row))
    for name, rows in one["arms"].items():
        for row in rows:
            print(line(name, row))
    for name, row in one["quantised"].items():
        print(f"  {name}: {row['bytes']['fp32']:,} bytes, {row['bytes']['nf4']:,} in NF4")
        for kind in ("fp32", "nf4", "int4"):
            print(line(f"  {kind}", row[kind]))


if __name__ == "__main__":
    raise SystemExit(main())
