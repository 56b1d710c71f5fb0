"""What became of each tensor of a weight file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class LandingReport:
    """What became of each tensor.

    Attributes:
        encoder: tensors of the encoder that landed, and how many it has.
        landed: tensors of the backbone that landed, and how many it has.
        random: tensors of the backbone that such a file does not hold; they stay random.
        unused: tensors of the file that the backbone has no use for, by the file's names.
        unknown: tensors of the file that the catalogue does not know; not used.
        known: structures that the classifier in the file knows by name.
    """

    encoder: tuple[int, int]
    landed: tuple[int, int]
    random: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    known: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """For people, one fact per line."""
        lines = [
            f"{self.encoder[0]} of {self.encoder[1]} encoder tensors landed, {self.landed[0]} of "
            f"{self.landed[1]} in all"
        ]
        if self.random:
            lines.append(f"{len(self.random)} tensors are not in the file and stay random: {name_parts(self.random)}")
        if self.known:
            names = ", ".join(self.known)
            lines.append(f"Its classifier knows {len(self.known)} structures (fm3d predict --weights): {names}")
        if self.unused:
            lines.append(f"{len(self.unused)} tensors of the file are not used: {name_parts(self.unused)}")
        if self.unknown:
            lines.append(f"{len(self.unknown)} unknown tensors of the file are not used: {name_parts(self.unknown)}")
        return lines


def name_parts(names: Sequence[str]) -> str:
    """Names by their first parts, with counts: 'blocks 6-23 (252), norm (2)'."""
    counts: dict[str, int] = {}
    blocks: set[int] = set()
    for name in names:
        words = name.removeprefix("module.").removeprefix("network.").removeprefix("backbone.").split(".")
        counts[words[0]] = counts.get(words[0], 0) + 1
        if words[0] == "blocks" and words[1:] and words[1].isdigit():
            blocks.add(int(words[1]))
    if blocks:
        counts = {f"blocks {min(blocks)}-{max(blocks)}" if k == "blocks" else k: v for k, v in counts.items()}
    shown = [f"{part} ({count})" if count > 1 else part for part, count in counts.items()]
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")
