"""FM3D core: pretrain, adapt and apply 3D foundation models for medical volumes.

Importing this package is instant; torch, monai and peft are imported by the functions that use them.
Research use only, not a medical device.
"""

__version__ = "0.1.0"
