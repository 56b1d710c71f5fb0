"""Real datastores, apps and one real server; skipped where MONAI Label is not installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("monailabel", reason='MONAI Label is not installed: pip install "fm3d[server]"')

if TYPE_CHECKING:
    from fm3d_core.volumes import Case
    from MonaiLabelApp.lib.app import FM3DApp
    from MonaiLabelApp.lib.datastore import CheckedDatastore

STRUCTURES = ("ellipsoid", "tube")
NAMED = [{"name": "ellipsoid", "idx": 1}, {"name": "tube", "idx": 2}]


@pytest.fixture(scope="session")
def synthetic_cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    """Three small synthetic cases with both structures."""
    from fm3d_core.volumes import write_synthetic_cases

    return write_synthetic_cases(tmp_path_factory.mktemp("synthetic"), 3, shape=(32, 32, 28))


@pytest.fixture
def datastore(tmp_path: Path) -> CheckedDatastore:
    """An empty study folder."""
    from MonaiLabelApp.lib.datastore import CheckedDatastore

    return CheckedDatastore(str(tmp_path / "studies"))


@pytest.fixture
def make_app(tmp_path: Path) -> Callable[..., FM3DApp]:
    """Makes apps on one study folder, as the server and the training process do."""
    from MonaiLabelApp.lib.app import FM3DApp

    def make(**conf: str) -> FM3DApp:
        return FM3DApp(str(tmp_path / "app"), str(tmp_path / "studies"), conf)

    return make


@pytest.fixture
def submit(synthetic_cases: list[Case]) -> Callable[..., None]:
    """Uploads a synthetic case to a datastore and submits its label."""

    def submit(datastore: CheckedDatastore, index: int, info: dict[str, object] | None = None) -> None:
        case = synthetic_cases[index]
        datastore.add_image(case.name, str(case.image), {})
        datastore.save_label(case.name, str(case.label), "final", {"label_info": NAMED} if info is None else info)

    return submit
