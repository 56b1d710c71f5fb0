"""The MONAI Label app of FM3D: it serves what fm3d_core learns. Every class is a translation to fm3d_core."""
