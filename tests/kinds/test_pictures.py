"""Pictures of a figure: PNGs that a browser shows as they were given."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from kdsearch.kinds import HIDDEN, Figure, Picture


def pixels(picture: Picture) -> np.ndarray:
    head, _, text = picture.src.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text, validate=True))))


def test_bytes_are_shown_as_they_are() -> None:
    colours = torch.arange(3 * 4 * 5, dtype=torch.uint8).reshape(3, 4, 5)
    assert np.array_equal(pixels(Picture.of("input", colours)), colours.permute(1, 2, 0).numpy())
    assert np.array_equal(pixels(Picture.of("input", colours[:1])), colours[0].numpy())


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e6])
def test_a_normalised_image_goes_from_black_to_white(scale: float) -> None:
    given = torch.tensor([[-2.0, 0.0], [2.0, 1.0]]) * scale
    assert pixels(Picture.of("input", given)).tolist() == [[0, 128], [255, 191]]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (torch.full((2, 2), 3.5), [[0, 0], [0, 0]]),
        (torch.tensor([[torch.nan, 0.0], [1.0, torch.inf]]), [[0, 0], [255, 0]]),
        (torch.full((1, 2), torch.nan), [[0, 0]]),
        (torch.tensor([[True, False]]), [[255, 0]]),
    ],
)
def test_what_has_no_range_or_is_no_number_is_black(given: Tensor, wanted: list[list[int]]) -> None:
    assert pixels(Picture.of("input", given)).tolist() == wanted


def test_many_channels_are_shown_by_their_mean() -> None:
    given = torch.stack([torch.tensor([[0, 100]]), torch.tensor([[50, 200]])]).to(torch.uint8)
    assert pixels(Picture.of("input", given)).tolist() == [[25, 150]]


def test_a_class_has_one_colour_everywhere_and_hidden_ones_are_grey() -> None:
    one = pixels(Picture.of_classes("truth", torch.arange(12).reshape(3, 4)))
    assert len({tuple(each) for each in one.reshape(-1, 3).tolist()}) == 12
    other = pixels(Picture.of_classes("student", torch.tensor([[7, HIDDEN], [0, 3]])))
    assert (other[0, 0].tolist(), other[1, 1].tolist()) == (one[1, 3].tolist(), one[0, 3].tolist())
    assert len(set(other[0, 1].tolist())) == 1


def test_large_ones_are_scaled_down_and_classes_stay_classes() -> None:
    halves = torch.cat([torch.zeros(500, 300), torch.ones(500, 300)], 1)
    shown = pixels(Picture.of("input", halves))
    assert shown.shape == (160, 192)
    assert sorted(set(shown.reshape(-1).tolist())) == [0, 255]
    classes = pixels(Picture.of_classes("truth", (halves * 5).long()))
    assert len({tuple(each) for each in classes.reshape(-1, 3).tolist()}) == 2


def test_a_figure_with_pictures_survives_json() -> None:
    row = [Picture.of("input", torch.eye(3)), Picture.of_classes("truth", torch.eye(3).long(), "two classes")]
    figure = Figure("masks", "Masks", "", pictures=[row])
    again = Figure.of(figure.as_json())
    assert [list(each) for each in again.pictures] == [row]
