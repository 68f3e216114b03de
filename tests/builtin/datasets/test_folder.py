"""Image folders: layouts, what Pillow may hand over, sizes, and files that are broken."""

import re

import numpy as np
import pytest
from PIL import Image

from kdsearch.builtin.datasets.copies import copies, ends
from kdsearch.builtin.datasets.folder import FolderOptions, ImageFolder
from kdsearch.cli import main
from kdsearch.engine.splits import arrange
from kdsearch.errors import DataError
from kdsearch.host import Host
from kdsearch.python.own_data import open_data
from kdsearch.testing.dataset import DatasetContract, FileServices


def picture(seed=0, width=10, height=8, mode="RGB"):
    shape = (height, width) if mode == "L" else (height, width, 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def write(root, splits=("",), n=4, classes=("cat", "dog"), mode="RGB", ending="png"):
    for s, split in enumerate(splits):
        for c, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for i in range(n):
                picture(100 * s + 10 * c + i, mode=mode).save(root / split / name / f"{i}.{ending}")


def opened(folder, **options):
    return ImageFolder(FolderOptions(path=".", **options)).open(FileServices(folder))


class TestFolder(DatasetContract):
    @pytest.fixture
    def dataset(self, tmp_path):
        write(tmp_path, ("train", "val", "test"))
        return ImageFolder(FolderOptions(path="."))


class TestFolderOnDemand(DatasetContract):
    @pytest.fixture
    def dataset(self, tmp_path):
        write(tmp_path, ending="jpg")
        return ImageFolder(FolderOptions(path=".", memory_mb=0, resize=6, augment="crop_flip"))


def raw(source, split, index):
    told = source.facts["preprocessing"]
    mean, std = (np.array(told[name])[:, None, None] for name in ("mean", "std"))
    return np.rint((source.split(split).load(index)["image"].double().numpy() * std + mean) * 255)


def test_pixels_labels_and_ids(tmp_path):
    write(tmp_path, ("train", "valid"))
    source = opened(tmp_path)
    assert source.splits == ("train", "val")
    assert source.facts["classes"] == ["cat", "dog"]
    assert list(source.split("val").ids[:2]) == ["valid/cat/0.png", "valid/cat/1.png"]
    assert source.split("val").labels.tolist() == [0] * 4 + [1] * 4
    assert (raw(source, "val", [5])[0] == np.array(picture(111)).transpose(2, 0, 1)).all()


def test_on_demand_equals_in_memory(tmp_path):
    write(tmp_path)
    (tmp_path / "cat" / "tall.png").parent.mkdir(exist_ok=True)
    picture(7, 9, 20).save(tmp_path / "cat" / "tall.png")
    memory, demand = opened(tmp_path, resize=8), opened(tmp_path, resize=8, memory_mb=0)
    assert (memory.facts["decoded"], demand.facts["decoded"]) == ("at the start", "on demand")
    assert memory.facts["decoded_bytes"] == 9 * 3 * 64
    assert memory.facts["preprocessing"] == demand.facts["preprocessing"]
    index = list(range(9))
    assert (raw(memory, "train", index) == raw(demand, "train", index)).all()


@pytest.mark.parametrize("memory_mb", [0, 512])
def test_content_sees_a_changed_file(tmp_path, memory_mb):
    write(tmp_path)
    before = opened(tmp_path, memory_mb=memory_mb).facts["content"]
    picture(99).save(tmp_path / "dog" / "3.png")
    assert opened(tmp_path, memory_mb=memory_mb).facts["content"] != before


@pytest.mark.parametrize("memory_mb", [0, 512])
def test_content_sees_what_changes_in_the_middle_of_a_bmp(tmp_path, memory_mb):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(2):
            picture(i, 96, 96).save(tmp_path / name / f"{i}.bmp")
    before = opened(tmp_path, memory_mb=memory_mb).facts["content"]
    pixels = np.array(picture(1, 96, 96))
    pixels[40:50] = 0
    Image.fromarray(pixels).save(tmp_path / "dog" / "1.bmp")
    assert opened(tmp_path, memory_mb=memory_mb).facts["content"] != before


@pytest.mark.parametrize("memory_mb", [0, 512])
def test_copies_of_an_image_are_not_carved_apart(tmp_path, memory_mb):
    """Each of ten images is there three times, in folders of its class."""
    for i in range(10):
        place = tmp_path / "ab"[i % 2]
        place.mkdir(exist_ok=True)
        for name in (f"{i}.png", f"{i} (copy).png", f"z{i}.png"):
            picture(i).save(place / name)
    source = opened(tmp_path, memory_mb=memory_mb)
    split = source.split("train")
    assert split.groups[:3] == ("a/0 (copy).png", "a/0 (copy).png", "a/2 (copy).png")
    assert "copies" not in source.facts
    data = arrange(source, labeled=1.0, validation=0.2, test=0.2, seed=0)
    held = [{re.search(r"\d", sample)[0] for sample in data.split(name).ids} for name in ("train", "val", "test")]
    assert sum(map(len, held)) == 10


def test_images_without_copies_are_in_no_groups(tmp_path):
    write(tmp_path)
    assert opened(tmp_path).split("train").groups == ()


def test_files_of_equal_ends_are_copies_only_if_all_of_them_is_equal(tmp_path):
    held = [bytes(5000) + bytes([i % 2]) + bytes(5000) for i in range(3)]
    files = tuple(tmp_path / f"{i}.png" for i in range(3))
    for file, each in zip(files, held, strict=True):
        file.write_bytes(each)
    found = ends(files)
    assert len(set(found.each)) == 1
    assert set(copies({"train": files}, {"train": found})) == {files[0], files[2]}


def test_test_images_that_are_training_images_are_warned_of(tmp_path, capsys):
    write(tmp_path, ("train", "val", "test"))
    (tmp_path / "train" / "unlabeled").mkdir()
    for file, copy in (
        ("train/cat/0", "test/cat/9"),
        ("train/dog/1", "test/dog/0"),
        ("test/dog/2", "train/unlabeled/0"),
    ):
        (tmp_path / f"{copy}.png").write_bytes((tmp_path / f"{file}.png").read_bytes())
    assert opened(tmp_path).facts["copies"] == {"test": 3}
    told = "3 samples of 'test' are copies of training samples: what is measured there is too good."
    with pytest.warns(UserWarning, match=f"^{told}"):
        open_data(str(tmp_path), "auto", 0, Host.load())
    (tmp_path / "study.yaml").write_text(
        f"data: {{use: image_folder, options: {{path: '{tmp_path}', resize: 8}}}}\n"
        "teacher: {use: trained, options: {space: cifar_resnet, spec: {depths: [1, 1, 1], widths: [4, 4, 4]}, epochs: 1}}\n"
        "student: {space: cifar_resnet, spec: {depths: [1, 1, 1], widths: [4, 4, 4]}}\nrecipe: {distillers: [kd]}\n"
        "distill: {controls: []}\n"
    )
    capsys.readouterr()
    assert main(["validate", str(tmp_path / "study.yaml")]) == 0
    out, err = capsys.readouterr()
    assert f"WARNING  {told}" in out.splitlines() + err.splitlines()
    assert "UserWarning" not in out + err


def strew(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def test_images_of_formats_that_are_not_read_are_counted_in_a_note(tmp_path, capsys):
    write(tmp_path / "d", ("train", "val"))
    strew(tmp_path / "d", "train/cat/README", "train/cat/a.json", "val/dog/Thumbs.db", "val/dog/._a.tif")
    assert opened(tmp_path / "d").facts["notes"] == []
    strew(tmp_path / "d", "train/cat/a.gif", "train/cat/deep/a.TIF", "val/dog/b.tif")
    strew(tmp_path / "d", "train/unlabeled/c.tif", "train/in no class.tif")
    picture().save(tmp_path / "d" / "train" / "unlabeled" / "c.png")
    source = opened(tmp_path / "d")
    told = "Images that were left out: 4 of a format that is not read (.tif: 3, .gif: 1)."
    assert source.facts["notes"] == [told]
    assert len(source.split("train").ids) == 8
    (tmp_path / "study.yaml").write_text(
        "data: {use: image_folder, options: {path: d, resize: 8}}\n"
        "teacher: {use: trained, options: {space: cifar_resnet, spec: {depths: [1, 1, 1], widths: [4, 4, 4]}, epochs: 1}}\n"
        "student: {space: cifar_resnet, spec: {depths: [1, 1, 1], widths: [4, 4, 4]}}\nrecipe: {distillers: [kd]}\n"
    )
    capsys.readouterr()
    assert main(["validate", str(tmp_path / "study.yaml")]) == 0
    assert f"Data: {told}" in capsys.readouterr().out


def test_grey_stays_grey_and_a_mixture_becomes_rgb(tmp_path):
    write(tmp_path / "grey", mode="L")
    assert opened(tmp_path / "grey").fields[0].shape == (1, 8, 10)
    picture(5).save(tmp_path / "grey" / "dog" / "colour.png")
    assert opened(tmp_path / "grey").fields[0].shape == (3, 8, 10)
    assert opened(tmp_path / "grey", channels=1).fields[0].shape == (1, 8, 10)


@pytest.mark.parametrize("mode", ["P", "RGBA", "CMYK", "1", "LA"])
def test_other_modes_are_converted(tmp_path, mode):
    write(tmp_path)
    ending = "jpg" if mode == "CMYK" else "png"
    source_image = picture(3).convert("L" if mode in ("1", "LA") else "RGB").convert(mode)
    source_image.save(tmp_path / "cat" / f"zz.{ending}")
    wanted = np.array(Image.open(tmp_path / "cat" / f"zz.{ending}").convert("RGB")).transpose(2, 0, 1)
    assert (raw(opened(tmp_path), "train", [4])[0] == wanted).all()


def test_rotation_in_exif_is_applied(tmp_path):
    write(tmp_path, n=1)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    picture(1, 8, 10).save(tmp_path / "cat" / "0.png", exif=exif)
    assert opened(tmp_path).fields[0].shape == (3, 8, 10)
    assert (
        raw(opened(tmp_path), "train", [0])[0] == np.rot90(np.array(picture(1, 8, 10)), -1).transpose(2, 0, 1)
    ).all()


def cut(file):
    file.write_bytes(file.read_bytes()[:-60])


def text(file):
    file.write_text("no image")


def deep(file):
    Image.fromarray(np.zeros((8, 10), np.uint16)).save(file)


def other_size(file):
    picture(0, 12, 8).save(file)


def turned(file):
    picture(0, 8, 10).save(file)


@pytest.mark.parametrize("memory_mb", [0, 512])
@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (cut, ["not a readable image"]),
        (text, ["not a readable image (its content is of no format that is known). Expected a whole png"]),
        (deep, ["I;16", "8 bits"]),
        (other_size, ["12x8", "`resize`"]),
        (turned, ["8x10", "`resize`"]),
        (lambda file: file.write_bytes(b""), ["not a readable image (the file is empty). Expected"]),
    ],
)
def test_a_broken_file_is_named(tmp_path, break_it, words, memory_mb):
    write(tmp_path)
    break_it(tmp_path / "dog" / "2.png")
    with pytest.raises(DataError) as error:
        opened(tmp_path, memory_mb=memory_mb).split("train").load(range(8))
    for word in ["2.png", *words]:
        assert word in str(error.value)


def test_a_bomb_is_refused_by_its_header(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setattr("kdsearch.kit.images.PIXELS", 79)
    with pytest.raises(DataError, match="10x8 pixels"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (lambda root: None, ["no class folders"]),
        (lambda root: (root / "train").mkdir(), ["no class folders", "train"]),
        (lambda root: (root / "cat").mkdir(), ["cat: no images. Expected *.png"]),
        (lambda root: strew(root, "cat/1.heic"), ["cat: no images but 1 of a format that is not read (.heic: 1)"]),
        (lambda root: write(root, ("test",)), ["has test but no train"]),
        (lambda root: (write(root, ("train", "val")), (root / "valid").mkdir()), ["both val and valid"]),
        (lambda root: (write(root, ("train",)), write(root, ("val",), classes=("cow",))), ["class 'cow'", "train"]),
    ],
)
def test_wrong_layouts(tmp_path, layout, words):
    layout(tmp_path)
    with pytest.raises(DataError) as error:
        opened(tmp_path)
    for word in words:
        assert word in str(error.value)


def test_splits_are_named_in_any_case_and_a_class_may_be_called_train(tmp_path):
    write(tmp_path / "photos", ("Train", "VAL", "Testing"))
    (tmp_path / "photos" / "Unlabeled").mkdir()
    picture(3).save(tmp_path / "photos" / "Unlabeled" / "0.png")
    source = opened(tmp_path / "photos")
    assert source.splits == ("train", "val", "test", "unlabeled")
    assert source.facts["classes"] == ["cat", "dog"]
    assert source.split("val").ids[0] == "VAL/cat/0.png"
    write(tmp_path / "vehicles", classes=("Bus", "Train"))
    assert opened(tmp_path / "vehicles").facts["classes"] == ["Bus", "Train"]


def test_images_and_masks_are_no_classes(tmp_path):
    for split in ("", "Train"):
        write(tmp_path / split, classes=("images", "masks"))
        with pytest.raises(DataError, match=r"holds images and masks.*`mask_folder`"):
            opened(tmp_path)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(DataError, match="not a folder"):
        ImageFolder(FolderOptions(path="x")).open(FileServices(tmp_path))


@pytest.mark.parametrize(
    ("splits", "place"),
    [(("",), "unlabeled"), (("train", "val", "test"), "unlabeled"), (("train", "test"), "train/unlabelled/web")],
)
@pytest.mark.parametrize("memory_mb", [0, 512])
def test_unlabeled_is_a_place_for_images_without_labels_and_no_class(tmp_path, splits, place, memory_mb):
    write(tmp_path, splits)
    (tmp_path / place).mkdir(parents=True)
    for i in range(3):
        picture(500 + i).save(tmp_path / place / f"{i}.png")
    source = opened(tmp_path, memory_mb=memory_mb)
    assert source.facts["classes"] == ["cat", "dog"]
    unlabeled = source.split("unlabeled")
    assert list(unlabeled.ids) == [f"{place}/{i}.png" for i in range(3)]
    assert unlabeled.load([0, 1, 2])["label"].tolist() == [-100] * 3
    assert (raw(source, "unlabeled", [1])[0] == np.array(picture(501)).transpose(2, 0, 1)).all()
    data = arrange(source, labeled=1.0, validation=0.25, test=0.25, seed=0)
    assert data.counts()["train"]["unlabeled"] == 3
    assert set(unlabeled.ids) <= set(data.split("train").ids)
    assert sum(n for name, n in data.counts()["train"].items() if name != "unlabeled") == len(data.split("labeled").ids)


def test_two_places_of_images_without_labels_and_one_in_a_test_split_are_refused(tmp_path):
    write(tmp_path, ("train", "test"))
    (tmp_path / "test" / "unlabeled").mkdir()
    picture().save(tmp_path / "test" / "unlabeled" / "0.png")
    with pytest.raises(DataError, match="class 'unlabeled' is not among the 2 classes of train"):
        opened(tmp_path)
    for place in ("unlabeled", "train/unlabeled"):
        (tmp_path / place).mkdir()
    with pytest.raises(DataError, match="has both unlabeled and train/unlabeled"):
        opened(tmp_path)
