"""Lets ``import torchvision`` succeed beside a CPU-only PyTorch; call it before peft or transformers is imported.

PyPI's Linux torchvision is a CUDA build. Beside a CPU build of torch its C++ operators cannot be loaded, so
``import torchvision`` raises "operator torchvision::nms does not exist", and with it every import of peft and
transformers (pytorch/vision#8985, #9077). Declaring the two operators' signatures is enough for the import.
It gives no compiled operators: calling ``torchvision.ops.nms`` still raises torchvision's own clear error.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

_library: Any = None  # must stay alive: dropping the Library undefines the operators


def ensure_torchvision_importable() -> str:
    """Make ``import torchvision`` work if it is installed.

    Returns:
        "absent" (not installed), "ok" (healthy, nothing done) or "patched".

    Raises:
        RuntimeError: torchvision fails for another reason than its missing C++ operators.
    """
    global _library
    if _library is not None:
        return "patched"
    if importlib.util.find_spec("torchvision") is None:
        return "absent"
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    else:
        return "ok"
    for name in [name for name in sys.modules if name == "torchvision" or name.startswith("torchvision.")]:
        del sys.modules[name]
    import torch

    _library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        _library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision  # noqa: F401

    return "patched"
