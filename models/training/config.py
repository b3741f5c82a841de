"""The configuration of a training. Lengths in nm are x, y, z; patches are voxels, z, y, x."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from ...axes import MAX_VOXEL_NM, MIN_VOXEL_NM, Zyx
from .augment import Augmentation
from .targets import SHELL_NM, Role

Positive = Annotated[float, Field(gt=0)]
_VoxelNm = Annotated[float, Field(ge=MIN_VOXEL_NM, le=MAX_VOXEL_NM)]
_Edge = Annotated[int, Field(gt=0, le=1 << 16)]
_Seed = Annotated[int, Field(ge=0, lt=1 << 32)]
NmBox = tuple[float, float, float, float, float, float]
_PATCH: dict[Role, Zyx] = {"locate": (32, 192, 192), "segment": (96, 160, 160)}
_CLASS_WEIGHTS: dict[Role, tuple[float, ...]] = {"locate": (1.0, 3.0), "segment": (1.0, 1.0, 2.0)}


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class _Data(_Model):
    """A source of volumes.

    Attributes:
      share: proportion of the patches, relative to the other sources; by default each volume counts once.
    """

    share: Positive | None = None


class Phantoms(_Data):
    """Phantoms, made when they are needed.

    Attributes:
      phantoms: number for training; their random seeds start at `first_seed`.
      held_out: number for validation, with other random seeds.
      first_seed: random seed of the first phantom.
      flat: make wide phantoms of a few sections, the same for both roles. Each patch shows one section, repeated
        along z, as a single micrograph does.
      looks: file of the looks of the training phantoms, and of as many held-out ones, as `flysoma adapt` writes it.
    """

    phantoms: Annotated[int, Field(ge=0)]
    held_out: Annotated[int, Field(ge=0)] = 6
    first_seed: _Seed = 10_000
    flat: bool = False
    looks: Path | None = None


class Emads(_Data):
    """A folder in the layout of EMADS.

    Attributes:
      emads: the folder.
      resolution_nm: voxel size of its volumes, x, y, z.
      held_out: names of the volumes for validation; by default those below `validation`, otherwise every fifth.
      ignore_label: label of voxels without annotation.
    """

    emads: Path
    resolution_nm: tuple[_VoxelNm, _VoxelNm, _VoxelNm] = (16.0, 16.0, 40.0)
    held_out: tuple[str, ...] | None = None
    ignore_label: int | None = None


class Layers(_Data):
    """Boxes of a precomputed image and its labels.

    Attributes:
      image, labels: cloud paths.
      boxes_nm: first and last corner of each box, x, y, z.
      held_out: indices of the boxes for validation.
      ignore_label: label of voxels without annotation.
    """

    image: str
    labels: str
    boxes_nm: tuple[NmBox, ...]
    held_out: tuple[int, ...] = ()
    ignore_label: int | None = None

    @model_validator(mode="after")
    def _validate_boxes(self) -> Layers:
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
    """The settings of a training.

    Attributes:
      role: `locate` or `segment`.
      data: sources of volumes, in any mixture.
      arch: architecture of the network.
      init: initial weights; by default random.
      patch: patch size, voxels, z, y, x; the default depends on the role.
      batch: patches per step and process.
      steps: number of steps, over which the learning rate decays.
      minutes: maximum time.
      lr, warmup, weight_decay, clip: learning rate, warm-up steps, weight decay and gradient norm limit of AdamW.
      ema: decay of the exponential moving average of the weights, which is validated and saved.
      mix: proportion of the trained weights in the saved weights; the rest is `init`. A lower value forgets less of
        what the new data lack (Wortsman et al., CVPR 2022).
      class_weights: class weights of the cross-entropy; the default depends on the role.
      dice: weight of the soft Dice loss.
      boundary_nm: width of the boundary class (segment).
      augmentation: strength of the augmentation, 0 (none) to 1.
      judge_every: steps between validations.
      patience: number of validations without a better score after which the training stops.
      seed: random seed.
      bf16: use bfloat16 where the device supports it.
      processes: number of processes; by default one per GPU.
      cache: folder for phantoms; by default beside the weights.
    """

    role: Role
    data: tuple[Data, ...] = (Phantoms(phantoms=48),)
    arch: Literal["somanet", "unet", "swin_unetr"] = "somanet"
    init: str | None = None
    patch: tuple[_Edge, _Edge, _Edge] | None = None
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
    seed: _Seed = 0
    bf16: bool = True
    processes: Annotated[int, Field(ge=1)] | None = None
    cache: Path | None = None

    @model_validator(mode="after")
    def _validate_settings(self) -> TrainConfig:
        classes = len(_CLASS_WEIGHTS[self.role])
        if len(self.loss_weights) != classes:
            raise ValueError(f"{self.role} has {classes} class_weights")
        if self.mix < 1 and self.init is None:
            raise ValueError("mix needs init, the weights to mix with")
        if not self.data:
            raise ValueError("data is empty; name at least one source of volumes")
        if len({data.share is None for data in self.data}) > 1:
            raise ValueError("give a share to all sources in data or to none")
        return self

    @property
    def patch_zyx(self) -> Zyx:
        """Patch size, voxels, z, y, x."""
        return self.patch or _PATCH[self.role]

    @property
    def loss_weights(self) -> tuple[float, ...]:
        """Class weights of the cross-entropy."""
        return self.class_weights or _CLASS_WEIGHTS[self.role]

    @property
    def patch_augmentation(self) -> Augmentation:
        """The augmentation of patches, at the configured strength."""
        return Augmentation().times(self.augmentation)
