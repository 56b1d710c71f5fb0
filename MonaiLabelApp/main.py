"""Where MONAI Label finds the app: it loads this file and takes the class derived from MONAILabelApp.

Start it with ``fm3d serve``, or with MONAI Label's own command from a checkout:
``python -m monailabel.main start_server --app MonaiLabelApp --studies FOLDER --host 127.0.0.1``
"""

from fm3d_core.torchvision_guard import ensure_torchvision_importable

ensure_torchvision_importable()  # before anything imports peft or transformers, in the server and in each training

from MonaiLabelApp.lib.app import FM3DApp  # noqa: E402

__all__ = ["FM3DApp"]
