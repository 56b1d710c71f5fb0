"""Dice plus cross-entropy: core-seconds of value and gradient beside MONAI's DiceCELoss, one thread, in one run.

python benchmarks/segmentation_loss.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from monai.losses import DiceCELoss
from rich.console import Console

from fm3d_core.tasks.dice_cross_entropy import dice_cross_entropy

ROUNDS = 5


def seconds(function: Callable[[], torch.Tensor]) -> float:
    """The fastest of some rounds, forward and backward."""
    spent = []
    for _ in range(ROUNDS):
        start = time.process_time()
        function().backward()  # type: ignore[no-untyped-call]
        spent.append(time.process_time() - start)
    return min(spent)


def main() -> None:
    """Print one line a number of classes."""
    torch.set_num_threads(1)
    console = Console(highlight=False)
    peer = DiceCELoss(to_onehot_y=True, softmax=True, batch=True)
    for classes in (2, 3, 14, 30):
        scores = torch.randn(2, classes, 64, 64, 64, requires_grad=True)
        target = torch.randint(0, classes, (2, 1, 64, 64, 64))
        ours = seconds(lambda scores=scores, target=target: dice_cross_entropy(scores, target[:, 0]))
        theirs = seconds(lambda scores=scores, target=target: peer(scores, target))
        console.print(f"{classes} classes: {ours:.3f} s, MONAI {theirs:.3f} s, ratio {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
