"""Capabilities that read pictures and answer more than one class a picture."""

from kdsearch.builtin.packages import PACKAGES
from kdsearch.hooks import Register

_AT = "kdsearch.builtin.vision"


def register(register: Register) -> None:
    """Name them; called by kdsearch.builtin."""
    register.task("segmentation", f"{_AT}.segmentation:Segmentation", about="one of K classes for each pixel")
    for name, cls, about in (
        ("miou", "MeanIou", "intersection over union of a class's pixels, mean over the classes"),
        ("pixel_accuracy", "PixelAccuracy", "share of pixels whose class is found"),
        ("trimap_miou", "TrimapMeanIou", "miou of the pixels near boundaries"),
        ("boundary_f1", "BoundaryF1", "F1 of boundary pixels within a tolerance (Csurka et al. 2013)"),
    ):
        register.metric(name, f"{_AT}.mask_metrics:{cls}", about=about)
    about = "articles of clothing before photographs, composed, with the class of each pixel"
    register.dataset("scenes", f"{_AT}.scenes:Scenes", about=about, package=PACKAGES["scenes"])
    register.dataset("mask_folder", f"{_AT}.mask_folder:MaskFolder", about="folders of images and of their masks")
