"""The contract of exporters, as tests.

# tests/test_my_exporter.py in your package; needs pytest
from kdsearch.testing.exporter import ExporterContract
from my_package.exporter import MyExporter


class TestMyExporter(ExporterContract):
    exporter = MyExporter
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from kdsearch.errors import ArtifactError
from kdsearch.kinds import Batch, Exporter, Field, Graph, named
from kdsearch.kinds.options import validate
from kdsearch.testing.contract import changed, require, trace
from kdsearch.testing.models import SmallResNet

IMAGE = Field("image", "image", (3, 8, 8))


@dataclass(frozen=True)
class Written:
    """What an exporter made in `folder`: the bytes of file and companions, other files, what of the network it changed."""

    data: tuple[bytes, ...]
    folder: Path
    beside: tuple[str, ...]
    changed: tuple[str, ...]


class Both(nn.Module):
    """Two inputs; two outputs, named, in another order than the graph's."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.told, self.out = nn.Linear(6, 8), nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, vector: Tensor, side: Tensor) -> dict[str, Tensor]:
        hidden = torch.relu(self.seen(vector) + self.told(side))
        return {"hidden": hidden, "logits": self.out(hidden)}


class ExporterContract:
    """Inherit it as `TestX` and name the exporter; override `graphs` where it takes others, `near` where it rounds."""

    exporter: ClassVar[type[Exporter[Any]]]
    options: ClassVar[Mapping[str, Any]] = {}
    near: ClassVar[float] = 1e-4  # largest absolute difference of answers of about 1

    def graphs(self) -> dict[str, Graph]:
        """By a name for messages; equal ones at every call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            convolutions, both = SmallResNet((4, 8), 1, 5, 3), Both()
        with torch.no_grad():
            for buffer in convolutions.buffers():  # batch norms that have seen something
                if buffer.is_floating_point():
                    buffer.add_(0.1)
        vectors = (Field("vector", "vector", (6,)), Field("side", "vector", (4,)))
        outputs = (Field("logits", "logits", (3,)), Field("hidden", "vector", (8,)))
        return {
            "convolutions": Graph(convolutions, (IMAGE,), (Field("logits", "logits", (5,)),)),
            "two inputs": Graph(both, vectors, outputs),
        }

    def batch(self, graph: Graph, n: int, seed: int = 0) -> Batch:
        rng = Generator().manual_seed(seed)
        return Batch(tuple(f"s{i}" for i in range(n)), {each.name: each.noise(n, rng) for each in graph.inputs})

    def made(self) -> Exporter[Any]:
        return self.exporter(validate(self.exporter.options_class, self.options))

    def write(self, graph: Graph, file: Path) -> Path:
        self.made().write(graph, self.batch(graph, 2), file)
        return file

    def written(self, name: str) -> Written:
        """What writing one of the graphs gave; made once, since an exporter may take seconds."""
        cls = type(self)
        if (cls, name) not in _WRITTEN:
            graph = self.graphs()[name]
            before = trace(graph.module.train())
            with tempfile.TemporaryDirectory(prefix="kdsearch-contract-") as folder:
                file = self.write(graph, Path(folder) / f"net{self.exporter.suffix}")
                parts = self.made().parts(file)
                beside = tuple(sorted(each.name for each in Path(folder).iterdir() if each not in parts))
                data = tuple(each.read_bytes() if each.is_file() else b"" for each in parts)
            _WRITTEN[cls, name] = Written(data, Path(folder), beside, tuple(changed(before, trace(graph.module))))
        return _WRITTEN[cls, name]

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """A copy of what was written, alone in another folder and under another name."""
        with tempfile.TemporaryDirectory(prefix="kdsearch-contract-") as folder:
            file = Path(folder) / f"copy{self.exporter.suffix}"
            for part, data in zip(self.made().parts(file), self.written(name).data, strict=True):
                part.write_bytes(data)
            yield file

    def check_answers(self, graph: Graph, file: Path, name: str) -> None:
        call, names = self.made().load(file), [each.name for each in graph.outputs]
        for n in (1, 2, 5):
            batch = self.batch(graph, n, seed=n)
            inputs = [batch[each.name] for each in graph.inputs]
            with torch.no_grad():
                expected = named(graph.module.eval()(*inputs), names)
            found = call(*inputs)
            require(set(names) <= set(found), f"{name}: the file answers {', '.join(found)}, not {', '.join(names)}")
            for each in names:
                got, want = found[each], expected[each]
                require(got.shape == want.shape, f"{name}: {n} samples give '{each}' as {tuple(got.shape)}")
                far = float((got - want).abs().max())
                require(far <= self.near, f"{name}: '{each}' is {far:.3g} from the network's in a batch of {n}")

    def test_there_is_one_file(self) -> None:
        for name in self.graphs():
            made = self.written(name)
            require(bool(made.data[0]), f"{name}: nothing is written")
            for suffix, data in zip(self.exporter.companions, made.data[1:], strict=True):
                require(bool(data), f"{name}: the companion {suffix} is not written")
            require(
                not made.beside,
                f"{name}: there is also {', '.join(made.beside)}; a file is whole alone, or with its `companions`",
            )

    def test_the_file_answers_as_the_network_does(self) -> None:
        """In eval mode, though it was training when it was written; for any number of samples; from any folder."""
        for name, graph in self.graphs().items():
            with self.file(name) as file:
                self.check_answers(graph, file, name)

    def test_equal_weights_equal_bytes_without_paths(self) -> None:
        for name, graph in self.graphs().items():
            first = self.written(name)
            with tempfile.TemporaryDirectory(prefix="kdsearch-contract-") as folder:
                deeper = Path(folder) / "deeper"
                deeper.mkdir()
                again = self.write(graph, deeper / f"other{self.exporter.suffix}")
                same = first.data == tuple(each.read_bytes() for each in self.made().parts(again))
                require(same, f"{name}: equal weights give different files")
            for path in (first.folder, Path.cwd(), Path.home()):
                if len(path.parts) > 1:
                    named = any(str(path).encode() in each for each in first.data)
                    require(not named, f"{name}: the file names {path}")

    def test_the_network_is_left_as_it_was(self) -> None:
        for name in self.graphs():
            differing = self.written(name).changed
            require(not differing, f"{name}: writing changes {', '.join(differing[:3])}")

    def test_a_label_changes_no_answer(self) -> None:
        about = {"labels": '["ä", "b"]', "licence": "none"}
        for name, graph in self.graphs().items():
            with self.file(name) as file:
                parts = self.made().parts(file)
                self.made().label(file, about)
                once = [each.read_bytes() for each in parts]
                self.check_answers(graph, file, f"{name}, labelled")
                self.made().label(file, dict(reversed(about.items())))
                require(
                    [each.read_bytes() for each in parts] == once, f"{name}: labelled again alike, the file is another"
                )
                require(len(list(file.parent.iterdir())) == len(parts), f"{name}: labelling leaves files beside it")
                told = self.made().labels(file)
                require(told is None or dict(told) == about, f"{name}: labelled {about}, the file tells {told}")

    def test_what_is_no_file_of_its_own_is_refused(self) -> None:
        """Cut off, foreign, gone, or with a companion that is."""
        with self.file(next(iter(self.graphs()))) as whole:
            held = [each.read_bytes() for each in self.made().parts(whole)]
            for at, (data, suffix) in enumerate(
                zip(held, (self.exporter.suffix, *self.exporter.companions), strict=True)
            ):
                of = f" {suffix}" if at else ""
                for name, spoilt in {
                    "cut": data[: len(data) // 2],
                    "foreign": b"no network at all",
                    "gone": None,
                }.items():
                    file = whole.with_stem(f"{name}-{at}")
                    for nth, part in enumerate(self.made().parts(file)):
                        now = spoilt if nth == at else held[nth]
                        if now is not None:
                            part.write_bytes(now)
                    self.check_refused(file, f"a {name}{of} file")
            for at in range(1, len(held)):
                file = whole.with_stem(f"changed-{at}")
                for nth, part in enumerate(self.made().parts(file)):
                    part.write_bytes(held[nth] if nth != at else bytes([held[nth][0] ^ 1]) + held[nth][1:])
                self.check_refused(file, f"a file with a changed {self.exporter.companions[at - 1]}")

    def check_refused(self, file: Path, what: str) -> None:
        try:
            self.made().load(file)
        except ArtifactError:
            return
        except Exception as error:
            raise AssertionError(f"{what} raises {type(error).__name__}; raise ArtifactError") from None
        raise AssertionError(f"{what} is loaded; raise ArtifactError")


_WRITTEN: dict[tuple[type, str], Written] = {}
