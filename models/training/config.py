"""What a training is: every setting, validated once. Lengths in nm are x, y, z; voxels of patches z, y, x."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from ...axes import Zyx
from .augment import Augmentation
from .targets import SHELL_NM, Role

Positive = Annotated[float, Field(gt=0)]
PositiveNm3 = tuple[Positive, Positive, Positive]
NmBox = tuple[float, float, float, float, float, float]
_PATCH: dict[Role, Zyx] = {"locate": (32, 192, 192), "segment": (96, 160, 160)}
_CLASS_WEIGHTS: dict[Role, tuple[float, ...]] = {"locate": (1.0, 3.0), "segment": (1.0, 1.0, 2.0)}


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class _Data(_Model):
    """A source of volumes; `share`: of the patches, as much as its volumes are by default."""

    share: Positive | None = None


class Phantoms(_Data):
    """Phantoms made on the spot: `phantoms` of the seeds from `first_seed` on, `held_out` of others.

    flat: wide phantoms of a few sections, the same for both roles. They are made in a fraction of the time; each patch of them shows
    one section for all, as a single micrograph does.
    """

    phantoms: Annotated[int, Field(ge=0)]
    held_out: Annotated[int, Field(ge=0)] = 6
    first_seed: int = 10_000
    flat: bool = False


class Emads(_Data):
    """A folder in the layout of EMADS.

    held_out: names of the volumes to judge by; None: those below `validation`, or else every fifth.
    ignore_label: marks voxels of which nothing is known.
    """

    emads: Path
    resolution_nm: PositiveNm3 = (16.0, 16.0, 40.0)
    held_out: tuple[str, ...] | None = None
    ignore_label: int | None = None


class Layers(_Data):
    """Boxes of a precomputed image and its labels: x, y, z of the first corner and of the last, nm.

    held_out: which boxes, counted from 0, are judged by.
    """

    image: str
    labels: str
    boxes_nm: tuple[NmBox, ...]
    held_out: tuple[int, ...] = ()
    ignore_label: int | None = None

    @model_validator(mode="after")
    def _boxes(self) -> Layers:
        for box in self.boxes_nm:
            if any(a >= b for a, b in zip(box[:3], box[3:])):
                raise ValueError(f"box {box} is empty: first corner x, y, z, then the last")
        if any(not 0 <= i < len(self.boxes_nm) for i in self.held_out):
            raise ValueError(
                f"held_out {self.held_out}: the boxes are 0 to {len(self.boxes_nm) - 1}"
            )
        return self


def _kind(value: Any) -> str:
    keys = value if isinstance(value, dict) else vars(value)
    return next((kind for kind in ("phantoms", "emads") if kind in keys), "layers")


Data = Annotated[
    Annotated[Phantoms, Tag("phantoms")]
    | Annotated[Emads, Tag("emads")]
    | Annotated[Layers, Tag("layers")],
    Discriminator(_kind),
]


class TrainConfig(_Model):
    """One training.

    Args:
      data: what is learned from, in any mixture.
      init: weights to go on from.
      patch: voxels; None: what suits the role.
      steps: the learning rate falls to nothing over these; `minutes`, where given, ends it sooner.
      ema: decay of the running mean of the weights, which is what is judged and saved.
      mix: share of what was learned in the weights that are judged and saved, the rest those of `init`: less is
        forgotten that way of what the new data do not show (Wortsman et al., CVPR 2022).
      class_weights, dice: of the loss; None: what suits the role.
      boundary_nm: width of the boundary class (segment).
      judge_every: steps between judgements; `patience`: how many of them without a better score end it.
      augmentation: how much patches are changed; 0: not at all.
      bf16: bfloat16 where it is as good and the device has it.
      processes: one a GPU by default.
      cache: folder that keeps phantoms; None: beside the weights.
    """

    role: Role
    data: tuple[Data, ...] = (Phantoms(phantoms=48),)
    arch: Literal["somanet", "unet", "swin_unetr"] = "somanet"
    init: str | None = None
    patch: Zyx | None = None
    batch: Annotated[int, Field(ge=1)] = 2
    steps: Annotated[int, Field(ge=1)] = 2000
    minutes: Positive | None = None
    lr: Annotated[float, Field(ge=0)] = 1e-3
    warmup: Annotated[int, Field(ge=0)] = 100
    weight_decay: Annotated[float, Field(ge=0)] = 1e-3
    clip: Positive = 1.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.995
    mix: Annotated[float, Field(gt=0, le=1)] = 1.0
    class_weights: tuple[Positive, ...] | None = None
    dice: Annotated[float, Field(ge=0)] = 0.5
    boundary_nm: Positive = SHELL_NM
    augmentation: Annotated[float, Field(ge=0, le=1)] = 1.0
    judge_every: Annotated[int, Field(ge=1)] = 250
    patience: Annotated[int, Field(ge=1)] | None = None
    seed: int = 0
    bf16: bool = True
    processes: Annotated[int, Field(ge=1)] | None = None
    cache: Path | None = None

    @model_validator(mode="after")
    def _fits(self) -> TrainConfig:
        if len(self.weights) != len(_CLASS_WEIGHTS[self.role]):
            raise ValueError(f"{self.role} has {len(_CLASS_WEIGHTS[self.role])} class_weights")
        if self.mix < 1 and self.init is None:
            raise ValueError("mix needs the weights of an init to mix with")
        if not self.data:
            raise ValueError("data names nothing to learn from")
        if len({data.share is None for data in self.data}) > 1:
            raise ValueError("give a share to all of the data or to none of it")
        return self

    @property
    def patch_zyx(self) -> Zyx:
        return self.patch or _PATCH[self.role]

    @property
    def weights(self) -> tuple[float, ...]:
        """Class weights of the cross-entropy."""
        return self.class_weights or _CLASS_WEIGHTS[self.role]

    @property
    def change(self) -> Augmentation:
        return Augmentation().times(self.augmentation)
