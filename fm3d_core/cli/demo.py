"""``fm3d demo``: the whole loop on a real server: label a few volumes, train, see what was learned."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fm3d_core.cli.console import progress_bar
from fm3d_core.cli.server_client import LoopClient
from fm3d_core.cli.server_process import ServerProcess, terminate_as_interrupt
from fm3d_core.errors import CaseError, SettingsError
from fm3d_core.files import atomic_file

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from rich.console import Console

    from fm3d_core.evaluation import ComparisonRow
    from fm3d_core.volumes import Case

MARKER = "demo.json"  # says that a folder was written by the demo, which may then replace it
SYNTHETIC_SHAPE = (48, 48, 40)


@dataclass(frozen=True)
class DemoSettings:
    """Teach a real server a few labelled volumes and segment others: the whole loop, nothing to download.

    Attributes:
        data: a folder with images, labels and labels.json ({"1": "name"}); without it, synthetic volumes are drawn.
        out: where picture, figures and the server's folder go.
        shots: how many volumes are labelled for the server; the next ones are test cases.
        test_cases: how many volumes are segmented before and after; their labels never reach the server.
        seconds: time budget of the training.
        method: full, lora, linear_probe or another of fm3d methods.
        seed: of the drawing and of the training.

    Raises:
        SettingsError: an impossible value.
    """

    data: Path | None = None
    out: Path = Path("fm3d_demo")
    shots: int = 3
    test_cases: int = 4
    seconds: float = 60.0
    method: str = "full"
    seed: int = 0

    def __post_init__(self) -> None:
        from fm3d_core.adaptation import FinetuneSettings

        for name in ("shots", "test_cases"):
            if not 1 <= getattr(self, name) <= 1000:
                raise SettingsError(f"{name} is {getattr(self, name)}", remedy="Choose a number from 1 to 1000")
        FinetuneSettings(method=self.method, seconds=self.seconds, seed=self.seed)

    def run(self) -> None:
        """Show it."""
        run_demo(self)


@dataclass(frozen=True)
class DemoResult:
    """What came out: mean Dice of each structure before and after training, and the picture."""

    before: dict[str, float]
    after: dict[str, float]
    picture: Path


def run_demo(settings: DemoSettings) -> DemoResult:
    """Start a server, upload, label, train and segment over HTTP, and say how good it became.

    Raises:
        FM3DError: too few cases, unusable files, or the server failed.
    """
    from rich.console import Console

    console = Console()
    out = _usable_folder(settings.out)
    given = _given_cases(settings.data, settings) if settings.data is not None else None
    _clear(out)
    cases, names = given or _drawn_cases(out, settings)
    labelled, tests = cases[: settings.shots], cases[settings.shots :]
    kind = "synthetic volumes" if settings.data is None else f"volumes of {settings.data}"
    found = f"{len(labelled)} labelled and {len(tests)} test cases ({kind}): {', '.join(names.values())}"
    console.print(found, soft_wrap=True)
    server = ServerProcess(out / "server" / "studies", out / "server", labels=tuple(names.values()))
    with terminate_as_interrupt(), _stopped_at_the_end(server, console):
        with console.status("Starting the server (about 10 seconds)"):
            server.start()
        console.print(f"The server answers at {server.address} after {server.start_took:.0f} s")
        client = LoopClient(server.address, out / "segmentations")
        _upload(client, labelled, tests, names)
        before = _score(client, tests, names, "untrained", console)
        with progress_bar(console) as show:
            trained = client.train(
                {"seconds": settings.seconds, "method": settings.method, "seed": settings.seed}, progress=show
            )
        after = _score(client, tests, names, str(trained["version"]), console)
    return _report(out, names, before, after, trained, console)


def _usable_folder(out: Path) -> Path:
    """The folder in full, if it is empty, absent or of an earlier demo."""
    out = out.resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not (out / MARKER).is_file():
        raise SettingsError(
            "is not empty and not of an earlier demo", path=out, remedy="Choose another folder with --out"
        )
    return out


def _clear(out: Path) -> None:
    """Remove what an earlier demo has left."""
    for part in ("server", "segmentations", "synthetic"):
        shutil.rmtree(out / part, ignore_errors=True)
    with atomic_file(out / MARKER) as temporary:
        temporary.write_text("{}\n", encoding="utf-8")


def _drawn_cases(out: Path, settings: DemoSettings) -> tuple[list[Case], dict[int, str]]:
    """Synthetic cases, and the name of each voxel value."""
    from fm3d_core.volumes import SYNTHETIC_LABELS, write_synthetic_cases

    count = settings.shots + settings.test_cases
    cases = write_synthetic_cases(out / "synthetic", count, settings.seed, shape=SYNTHETIC_SHAPE)
    return cases, dict(enumerate(SYNTHETIC_LABELS, start=1))


def _given_cases(data: Path, settings: DemoSettings) -> tuple[list[Case], dict[int, str]]:
    """The user's cases, those to label first, and the name of each voxel value."""
    from fm3d_core.volumes import find_cases, read_label_names

    cases = find_cases(data, labelled=True)[: settings.shots + settings.test_cases]
    if len(cases) <= settings.shots:
        raise CaseError(
            f"holds {len(cases)} labelled cases, but {settings.shots} to label and at least one to test are needed",
            path=data,
            remedy="Add cases or choose fewer with --shots",
        )
    if series := [case.name for case in cases if case.image.is_dir()]:
        raise CaseError(f"{series[0]} is a DICOM folder", path=data, remedy="Convert it to NIfTI first")
    return cases, read_label_names(data, cases)


def _upload(client: LoopClient, labelled: list[Case], tests: list[Case], names: dict[int, str]) -> None:
    for case in [*labelled, *tests]:
        client.upload(case.image, case.name)
    for case in labelled:
        assert case.label is not None
        client.submit(case.name, case.label, names)


def _score(
    client: LoopClient, tests: list[Case], names: dict[int, str], version: str, console: Console
) -> list[ComparisonRow]:
    """Segment the test cases on the server and compare with the labels that stayed here."""
    from fm3d_core.evaluation import ComparisonRow, dice_per_label
    from fm3d_core.volumes import read_label, read_volume

    rows, labels = [], list(names.values())
    for case in tests:
        assert case.label is not None
        with console.status(f"Segmenting {case.name} ({version})"):
            file, answer = client.segment(case.name, version)
        image = read_volume(case.image)
        truth = _in_order(
            read_label(case.label, names=names).array, {name: value for value, name in names.items()}, labels
        )
        prediction = _in_order(read_label(file).array, answer["label_names"], labels)
        scores = dice_per_label(prediction, truth, labels)
        rows.append(ComparisonRow(case.name, image.array, truth, prediction, image.spacing, scores))
    return rows


def _in_order(array: npt.NDArray[np.uint8], values: dict[str, int], labels: list[str]) -> npt.NDArray[np.uint8]:
    """A label map with the values of ``labels``' order, 1 to N."""
    import numpy as np

    table = np.zeros(256, np.uint8)
    for value, name in enumerate(labels, start=1):
        table[values[name]] = value
    ordered: npt.NDArray[np.uint8] = table[array]
    return ordered


@contextmanager
def _stopped_at_the_end(server: ServerProcess, console: Console) -> Iterator[None]:
    try:
        yield
    finally:
        with console.status("Stopping the server"):
            server.stop()


def _report(
    out: Path,
    names: dict[int, str],
    before: list[ComparisonRow],
    after: list[ComparisonRow],
    trained: dict[str, Any],
    console: Console,
) -> DemoResult:
    from rich.table import Table

    from fm3d_core.evaluation import draw_comparison

    labels = list(names.values())
    result = DemoResult(_means(before, labels), _means(after, labels), out / "comparison.png")
    draw_comparison(result.picture, after, labels)
    table = Table(title=f"Mean Dice of {len(after)} test cases")
    for column in ("structure", "before", "after"):
        table.add_column(column, justify="left" if column == "structure" else "right")
    for name in labels:
        table.add_row(name, f"{result.before[name]:.2f}", f"{result.after[name]:.2f}")
    console.print(table)
    content = {"before": result.before, "after": result.after, "training": trained}
    with atomic_file(out / MARKER) as temporary:
        temporary.write_text(json.dumps(content, indent=2).replace("NaN", "null"), encoding="utf-8")
    console.print(f"Picture: {result.picture}", soft_wrap=True)
    console.print(f"Adapter: {out / 'server' / 'adapters'}, segmentations: {out / 'segmentations'}", soft_wrap=True)
    return result


def _means(rows: list[ComparisonRow], labels: list[str]) -> dict[str, float]:
    """Mean Dice of each structure over the cases in which it could be measured."""
    from fm3d_core.evaluation import mean_dice

    by_case = [row.dice for row in rows if isinstance(row.dice, dict)]
    return {name: mean_dice({str(index): dice[name] for index, dice in enumerate(by_case)}) for name in labels}
