"""The choices of one finetuning run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from fm3d_core.adaptation.methods.base import OptimiserName
from fm3d_core.adaptation.methods.parts import PART_CHOICES, PartChoice
from fm3d_core.clocks import CLOCKS, ClockName
from fm3d_core.errors import SettingsError

if TYPE_CHECKING:
    from fm3d_core.adaptation.methods import Method

PRESETS = ("fast", "balanced", "thorough", "auto")


@dataclass(frozen=True)
class FinetuneSettings:
    """How an adapter is trained.

    Attributes:
        method: what trains: full, lora, linear_probe or another of fm3d methods.
        backbone: preset name of the backbone; None takes the one the weights are for, or residual_unet_small.
        weights: weight file of the backbone, or the id of one that is here (fm3d weights list); without it those that
            come with FM3D for the backbone, if there are any; "random" takes none (random from the seed).
        head: from the backbone's maps to voxels: linear; for ViTs also light, unetr, vit_adapter. auto: linear for a
            pyramid backbone and for methods on frozen features, else unetr, or light where the patch is not 16 voxels.
        decoder, bottleneck: of a U-Net or Swin UNETR: frozen, finetuned, new (random weights that train); auto leaves
            them to the method. For a structure unknown to the weights: --method lora --decoder finetuned.
        rank, alpha: of the method's low-rank updates, which are scaled by alpha / rank; None leaves the method's own
            (fm3d methods). Without a preset.
        match_weights: prepare the volumes as the catalogue says of the weights' pretraining (intensities and voxel
            size), unless the task brings its own preprocessing.
        closed_form: whether a linear head starts as the solution of a ridge regression on voxels of the cases, which
            takes a second or two; else at random.
        seconds: time budget of the training itself, features of a frozen backbone included, without reading and
            resampling the volumes.
        until_plateau: whether to end sooner where the loss no longer falls; a preset does.
        steps: a fixed number of steps instead of a time budget: the same seed then gives the same adapter.
        learning_rate: of AdamW; None takes the method's own.
        optimiser: adamw; muon, for the kernels of convolutions, with AdamW for the rest; None leaves it to the method
            (fm3d_core.adaptation.optimisers), or, with a learning rate given, takes adamw.
        batch_size: crops per step.
        seed: of weights, crops and augmentation.
        device: auto, cpu or cuda.
        clock: what the seconds are counted by: wall, or cpu for core-seconds, which compare on a busy computer.
        preset: stages and their time instead of method and seconds: fast (about a minute on two cores), balanced (about
            five minutes), thorough, or auto, which chooses by volumes, backbone and computer.
        continue_from: the adapter that training goes on from: active (the one of the store, if it fits), none, or a
            version's number.

    Raises:
        SettingsError: an impossible value or unknown name.
    """

    method: str = "full"
    backbone: str | None = None
    weights: Path | None = None
    closed_form: bool = True
    head: str = "auto"
    decoder: PartChoice = "auto"
    bottleneck: PartChoice = "auto"
    rank: int | None = None
    alpha: float | None = None
    match_weights: bool = True
    seconds: float = 90.0
    steps: int | None = None
    learning_rate: float | None = None
    optimiser: OptimiserName | None = None
    batch_size: int = 2
    seed: int = 0
    device: str = "auto"
    clock: ClockName = "wall"
    preset: str | None = None
    continue_from: str = "active"
    until_plateau: bool = False

    def __post_init__(self) -> None:
        from fm3d_core.models.zoo import check_preset
        from fm3d_core.tasks import check_head

        self.chosen_method()
        check_head(self.head)
        if self.backbone is not None:
            check_preset(self.backbone)
        self._require(self.preset is None or self.preset in PRESETS, "preset", f"of {', '.join(PRESETS)}")
        known = self.continue_from in ("active", "none") or self.continue_from.isdecimal()
        self._require(known, "continue_from", "of active, none or the number of a version")
        self._require(1 <= self.seconds <= 7 * 24 * 3600, "seconds", "between 1 and 604800 (a week)")
        self._require(self.steps is None or 1 <= self.steps <= 10_000_000, "steps", "between 1 and 10000000")
        self._require(self.learning_rate is None or 0 < self.learning_rate <= 1, "learning_rate", "between 0 and 1")
        known = self.optimiser in (None, *get_args(OptimiserName))
        self._require(known, "optimiser", f"of {', '.join(get_args(OptimiserName))}")
        for name in ("decoder", "bottleneck"):
            self._require(getattr(self, name) in PART_CHOICES, name, f"of {', '.join(PART_CHOICES)}")
        if self.method == "scratch" and self.weights is not None and str(self.weights) != "random":
            raise SettingsError(
                f"method scratch begins with random weights, but {self.weights} is given",
                remedy="Leave --weights out, or choose method full",
            )
        self._require(1 <= self.batch_size <= 64, "batch_size", "between 1 and 64")
        self._require(self.clock in CLOCKS, "clock", "of wall and cpu")
        self._require(0 <= self.seed < 2**31, "seed", "between 0 and 2147483647")

    def chosen_method(self) -> Method:
        """The method, with the choices about parts, rank and alpha.

        Raises:
            SettingsError: there is none, or it has no rank or alpha.
        """
        from fm3d_core.adaptation.methods import check_method

        return check_method(self.method, self.decoder, self.bottleneck, self.rank, self.alpha)

    def chosen_optimiser(self) -> OptimiserName:
        """The optimiser that is asked for; else the method's own, whose rate is then the method's own too."""
        from fm3d_core.adaptation.methods import optimiser_of_method

        if self.optimiser is not None:
            return self.optimiser
        return optimiser_of_method(self.chosen_method()) if self.learning_rate is None else "adamw"

    def chosen_learning_rate(self) -> float:
        """The learning rate that is asked for; else the method's own."""
        return self.learning_rate or self.chosen_method().learning_rate

    def _require(self, condition: bool, name: str, remedy: str) -> None:
        if not condition:
            raise SettingsError(f"{name} is {getattr(self, name)}", remedy=f"Choose a value {remedy}")

    def to_dict(self) -> dict[str, Any]:
        """As plain data for JSON (the weight file by name only)."""
        return {**asdict(self), "weights": self.weights.name if self.weights else None}
