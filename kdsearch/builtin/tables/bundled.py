"""Data set `bundled_table`: real tables that are always there, or come with a package; nothing is downloaded.

`characters` is made of the Unicode database that Python carries: a row is a character, its columns what the database says of it.
"""

from __future__ import annotations

import gzip
import unicodedata
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field as Option

from kdsearch.builtin.packages import AUTO_MPG, BREAST_CANCER, PACKAGES, WINE
from kdsearch.builtin.tables.data import TableOptions, opened
from kdsearch.builtin.tables.targets import TASKS, Kind
from kdsearch.errors import DataError
from kdsearch.kinds import Dataset, DataSource, Options, Services
from kdsearch.kit.packages import package_file
from kdsearch.kit.tables import Table, TableFiles, identified

Name = Literal["auto_mpg", "breast_cancer", "wine", "characters"]
FLAGS = ("alphabetic", "upper", "lower", "digit", "numeric", "identifier", "combining", "mirrored", "decomposes")
LAST = 0x3400  # characters from here on are ideographs, Hangul syllables and private ones: all alike


@dataclass(frozen=True)
class About:
    """Where a table is from, its columns in order, and what it is read as.

    `kinds`: what may be predicted -> its columns; the first one is the default. `ignore`: columns that give the answer away.
    """

    file: tuple[str, str] | None
    columns: tuple[str, ...]
    kinds: Mapping[Kind, tuple[str, ...]]
    facts: Mapping[str, str]
    categories: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    skip: int = 0  # lines before the first row
    rare: int = 1


_UCI = "CC BY 4.0 (UCI)"
_MEANS = (
    "radius",
    "texture",
    "perimeter",
    "area",
    "smoothness",
    "compactness",
    "concavity",
    "concave_points",
    "symmetry",
    "fractal",
)
TABLES: Mapping[str, About] = {
    "auto_mpg": About(
        AUTO_MPG,
        ("cylinders", "displacement", "horsepower", "weight", "acceleration", "year", "origin", "car", "mpg"),
        {"number": ("mpg",)},
        {
            "source": "UCI ML Repository: Auto MPG (Quinlan, 1993), in mlxtend",
            "licence": f"{_UCI}; mlxtend BSD-3-Clause",
        },
        categories=("cylinders", "origin", "maker"),
        ignore=("car",),
    ),
    "breast_cancer": About(
        BREAST_CANCER,
        (*(f"{kind}_{name}" for kind in ("mean", "error", "worst") for name in _MEANS), "diagnosis"),
        {"class": ("diagnosis",)},
        {
            "source": "UCI ML Repository: Breast Cancer Wisconsin (Diagnostic) (Wolberg et al., 1995), in scikit-learn",
            "licence": f"{_UCI}; scikit-learn BSD-3-Clause",
        },
        skip=1,
    ),
    "wine": About(
        WINE,
        (
            "alcohol",
            "malic_acid",
            "ash",
            "alcalinity",
            "magnesium",
            "phenols",
            "flavanoids",
            "nonflavanoids",
            "proanthocyanins",
            "color",
            "hue",
            "od280",
            "proline",
            "cultivar",
        ),
        {"class": ("cultivar",)},
        {
            "source": "UCI ML Repository: Wine (Aeberhard, Forina, 1991), in scikit-learn",
            "licence": f"{_UCI}; scikit-learn BSD-3-Clause",
        },
        skip=1,
    ),
    "characters": About(
        None,
        (),
        {"class": ("category",), "labels": FLAGS},
        {
            "source": f"Unicode Character Database {unicodedata.unidata_version}, in Python's unicodedata",
            "licence": "Unicode License v3",
        },
        categories=("block", "bidirectional", "east_asian_width", "first_word", "last_word"),
        rare=10,
    ),
}


class BundledOptions(Options):
    name: Name = Option(
        "characters",
        description="auto_mpg: cars, their miles a gallon; breast_cancer: cells, benign or malignant; wine: its cultivar by "
        "analysis; characters: of Unicode, by name and place, their general category, or nine properties",
    )
    kind: Kind | None = Option(
        None,
        description="what is predicted, where there are several: characters have class and labels; null = the first",
    )


class BundledTable(Dataset[BundledOptions]):
    """A table that needs no file of the user's. One split: validation and test are held out of it."""

    def __init__(self, options: BundledOptions) -> None:
        super().__init__(options)
        self._about = TABLES[options.name]
        first: Kind = next(iter(self._about.kinds))
        self._kind = first if options.kind is None else options.kind
        self.task = TASKS[self._kind]

    def preflight(self, services: Services) -> None:
        self._check_kind()
        if self._about.file is not None:
            package_file("bundled_table", PACKAGES["bundled_table"], self._about.file)

    def _check_kind(self) -> None:
        if self._kind not in self._about.kinds:
            raise DataError(
                f"'{self.options.name}' has no {self._kind}",
                path="data.options.kind",
                expected=" or ".join(self._about.kinds),
            )

    def open(self, services: Services) -> DataSource:
        self._check_kind()
        about, target = self._about, self._about.kinds[self._kind]
        others = [each for kind, names in about.kinds.items() if kind != self._kind for each in names]
        rows = list(_characters()) if about.file is None else list(self._rows(about))
        table = _table(rows, self.options.name)
        options = TableOptions(
            path=self.options.name,
            target=target if len(target) > 1 else target[0],
            kind=self._kind,
            categories=about.categories,
            rare=about.rare,
        )
        ignored = [*about.ignore, *others, *(["id"] if about.file is None else [])]
        return opened({"train": table}, options, ignored, {"name": self.options.name, **about.facts})

    def _rows(self, about: About) -> Iterator[dict[str, Any]]:
        assert about.file is not None
        file = package_file("bundled_table", PACKAGES["bundled_table"], about.file)
        for cells in _cells(file, about):
            row: dict[str, Any] = dict(zip(about.columns, cells, strict=True))
            if "car" in row:
                row["maker"] = row["car"].split()[0]
            yield row


def _cells(file: Path, about: About) -> list[list[str]]:
    try:
        raw = file.read_bytes()
        text = (gzip.decompress(raw) if file.suffix == ".gz" else raw).decode("ascii")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise _broken(file, str(error)) from error
    rows = [line.split(",") for line in text.splitlines()[about.skip :] if line]
    wrong = [row for row in rows if len(row) != len(about.columns)]
    if wrong or not rows:
        raise _broken(file, f"a row of {len(wrong[0])} cells" if wrong else "no row")
    return rows


def _broken(file: Path, what: str) -> DataError:
    return DataError(
        f"not readable ({what[:80]})", file=file, expected="the package's own table", fix="Install the package again."
    )


def _characters() -> Iterator[dict[str, Any]]:
    """A row for each named character below LAST: what its name and place say, and what the database knows."""
    for code in range(LAST):
        char = chr(code)
        name = unicodedata.name(char, "")
        if not name:
            continue
        words = name.replace("-", " ").split()
        yield {
            "id": f"U+{code:04X}",
            "code": code,
            "in_block": code % 128,
            "block": f"{code // 128:02X}",
            "words": len(words),
            "letters": len(name),
            "first_word": words[0],
            "last_word": words[-1] if len(words[-1]) > 1 else "one letter",
            "bidirectional": unicodedata.bidirectional(char),
            "east_asian_width": unicodedata.east_asian_width(char),
            "category": unicodedata.category(char),
            "alphabetic": int(char.isalpha()),
            "upper": int(char.isupper()),
            "lower": int(char.islower()),
            "digit": int(char.isdigit()),
            "numeric": int(char.isnumeric()),
            "identifier": int(char.isidentifier()),
            "combining": int(unicodedata.combining(char) > 0),
            "mirrored": int(unicodedata.mirrored(char)),
            "decomposes": int(bool(unicodedata.decomposition(char))),
        }


def _table(rows: Sequence[Mapping[str, Any]], name: str) -> Table:
    columns = {column: [row[column] for row in rows] for column in rows[0]}
    bare = Table(Path(name), columns, range(1, len(rows) + 1), ("",) * len(rows))
    return identified(bare, TableFiles(path=name, id="id" if "id" in columns else None))
