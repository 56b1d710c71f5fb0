"""Adaptation: what a backbone learns from a few labelled volumes, how it is kept, and how it is taken back."""

from fm3d_core.adaptation.adapter import Adapter, AdapterCard, UsedCase
from fm3d_core.adaptation.cases import LabeledCase
from fm3d_core.adaptation.finetune import finetune, untrained_adapter
from fm3d_core.adaptation.finetune_images import finetune_images
from fm3d_core.adaptation.image_cases import ImageCase
from fm3d_core.adaptation.settings import FinetuneSettings
from fm3d_core.adaptation.store import AdapterStore, StoredAdapter

__all__ = [
    "Adapter",
    "AdapterCard",
    "AdapterStore",
    "FinetuneSettings",
    "ImageCase",
    "LabeledCase",
    "StoredAdapter",
    "UsedCase",
    "finetune",
    "finetune_images",
    "untrained_adapter",
]
