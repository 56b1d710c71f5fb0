"""Pretraining: self-distillation without labels (3DINO), one loss, schedule or step per file."""
