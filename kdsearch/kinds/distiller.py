"""Distiller: named loss terms from one step; may own trained modules and buffers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic

from torch import Tensor, nn

from kdsearch.kinds.model import TapShapes
from kdsearch.kinds.options import Capability, O, requested_taps
from kdsearch.kinds.step import Clock, Step
from kdsearch.kinds.teacher import Access

if TYPE_CHECKING:
    from kdsearch.kinds.procedure import Setup


class Distiller(nn.Module, Capability, Generic[O]):
    """Parameters it creates in `build` are trained with the student and checkpointed, buffers are checkpointed; neither is
    exported. Not its work: weights, the total loss, changes to the student.
    """

    access: ClassVar[Access] = Access.LOGITS  # least access to the teacher; TAPS is implied by a TeacherTap option
    needs_teacher: ClassVar[bool] = True
    owns_task_loss: ClassVar[bool] = False  # its term `task` replaces the task's own
    paper_weights: ClassVar[Mapping[str, float]] = {}  # the paper's own constants by term, for `normalize: false`
    term_names: ClassVar[tuple[str, ...]] = ()  # every name that `terms` may give; () = those of `paper_weights`

    def __init__(self, options: O) -> None:
        super().__init__()
        self.options = options

    @classmethod
    def named_terms(cls) -> tuple[str, ...]:
        """Every term's name as far as the class says them; () = it does not."""
        return cls.term_names or tuple(cls.paper_weights)

    def taps(self) -> dict[str, list[str]]:
        """Role ("student", "teacher") -> taps it reads. Default: the StudentTap and TeacherTap options."""
        return requested_taps(self.options)

    def build(self, shapes: TapShapes) -> None:
        """Create own modules and buffers. Raise TapShapeError, naming tap and shape, when shapes do not fit."""

    def prepare(self, setup: Setup) -> None:
        """Once before the first step, into own buffers; not on resume."""

    @abstractmethod
    def terms(self, step: Step) -> dict[str, Tensor]:
        """Unweighted scalars, means over the micro-batch. The teacher's tensors are constants."""

    def on_step_end(self, step: Step) -> None:
        """After the optimiser's step: queues, memories."""

    def on_epoch_end(self, clock: Clock) -> None:
        """After each epoch."""

    def forward(self, *args: Any) -> Any:
        raise TypeError(f"{type(self).__name__} is not called; the engine asks for terms(step)")
