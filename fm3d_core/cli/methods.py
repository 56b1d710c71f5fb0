"""``fm3d methods``: what each finetuning method trains, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass

from fm3d_core.errors import SettingsError


@dataclass(frozen=True)
class Methods:
    """List the finetuning methods: what trains, how many parameters, how large an adapter's file is.

    Attributes:
        backbone: preset that the figures are for.
        measure: train a few steps on a made crop of 64 x 64 x 64 voxels, too: seconds of a step, and its memory for
            the backward pass, gradients and the optimiser's state.
        device: auto, cpu or cuda; for measure.
    """

    backbone: str = "residual_unet_small"
    measure: bool = False
    device: str = "auto"

    def run(self) -> None:
        """Print the table."""
        from rich.console import Console
        from rich.table import Table

        from fm3d_core.adaptation.methods import METHODS
        from fm3d_core.devices import choose_device
        from fm3d_core.models.zoo import check_preset

        check_preset(self.backbone)
        choose_device(self.device)
        table = Table(title=f"{self.backbone}, one structure")
        measured = ["s per step", "MB per step"] if self.measure else []
        for column in ["method", "what trains", "parameters", "file", *measured]:
            table.add_column(
                column, overflow="fold", justify="left" if column in ("method", "what trains") else "right"
            )
        for name in METHODS:
            table.add_row(name, *self._row(name))
        Console().print(table)

    def _row(self, name: str) -> list[str]:
        from fm3d_core.adaptation.costs import cost_of
        from fm3d_core.adaptation.methods import METHODS

        method = METHODS[name]
        try:
            cost = cost_of(method, self.backbone, measure=self.measure, device=self.device)
        except SettingsError as error:
            return [str(error).removeprefix(f"method '{name}' ")]
        row = [method.about, f"{cost.parameters:,}", _size(cost.file_bytes)]
        if cost.step is not None:
            row += [f"{cost.step.seconds:.3g}", f"{cost.step.memory / 1e6:.1f}"]
        return row


def _size(number: int) -> str:
    """Bytes in words."""
    return f"{number / 1e3:.0f} kB" if number < 1e6 else f"{number / 1e6:.1f} MB"
