"""Pretraining without any real volume: random anatomies in two patients and scans, told apart by voxel."""
