"""``fm3d demo``: the whole loop on a real server: label a few volumes, train, see what was learned."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fm3d_core.cli.server_client import LoopClient
from fm3d_core.cli.server_process import ServerProcess, terminate_as_interrupt
from fm3d_core.errors import CaseError, SettingsError
from fm3d_core.files import atomic_file
from fm3d_core.progress import Progress

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
    """What the demo shows.

    Attributes:
        data: a folder with images, labels and labels.json ({"1": "name"}); without it, synthetic volumes are drawn.
        out: where picture, figures and the server's folder go.
        shots: how many volumes are labelled for the server; the next ones are test cases.
        test_cases: how many volumes are segmented before and after; their labels never reach the server.
        seconds: time budget of the training.
        method: full, lora or linear_probe.
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
    out = _prepared_folder(settings.out)
    cases, names = _cases(settings, out)
    labelled, tests = cases[: settings.shots], cases[settings.shots :]
    kind = "synthetic volumes" if settings.data is None else f"volumes of {settings.data}"
    console.print(f"{len(labelled)} labelled and {len(tests)} test cases ({kind}): {', '.join(names.values())}")
    server = ServerProcess(out / "server" / "studies", out / "server", labels=tuple(names.values()))
    with terminate_as_interrupt(), _stopped_at_the_end(server, console):
        with console.status("Starting the server (about 10 seconds)"):
            server.start()
        console.print(f"The server answers at {server.address} after {server.start_took:.0f} s")
        client = LoopClient(server.address, out / "segmentations")
        _upload(client, labelled, tests, names)
        before = _score(client, tests, names, "untrained", console)
        with _progress_bar(console) as show:
            trained = client.train(
                {"seconds": settings.seconds, "method": settings.method, "seed": settings.seed}, progress=show
            )
        after = _score(client, tests, names, str(trained["version"]), console)
    return _report(out, names, before, after, trained, console)


def _prepared_folder(out: Path) -> Path:
    """``out`` without an earlier demo's content; anything else in it stays and is refused."""
    out = out.resolve()
    if out.is_dir() and any(out.iterdir()):
        if not (out / MARKER).is_file():
            raise SettingsError(
                "is not empty and not of an earlier demo", path=out, remedy="Choose another folder with --out"
            )
        for part in ("server", "segmentations", "synthetic"):
            shutil.rmtree(out / part, ignore_errors=True)
    with atomic_file(out / MARKER) as temporary:
        temporary.write_text("{}\n", encoding="utf-8")
    return out


def _cases(settings: DemoSettings, out: Path) -> tuple[list[Case], dict[int, str]]:
    """The cases to use, labelled ones first, and the name of each voxel value."""
    from fm3d_core.volumes import SYNTHETIC_LABELS, find_cases, write_synthetic_cases

    wanted = settings.shots + settings.test_cases
    if settings.data is None:
        cases = write_synthetic_cases(out / "synthetic", wanted, settings.seed, shape=SYNTHETIC_SHAPE)
        return cases, dict(enumerate(SYNTHETIC_LABELS, start=1))
    cases = find_cases(settings.data, labelled=True)
    if len(cases) <= settings.shots:
        raise CaseError(
            f"holds {len(cases)} labelled cases, but {settings.shots} to label and at least one to test are needed",
            path=settings.data,
            remedy="Add cases or choose fewer with --shots",
        )
    if series := [case.name for case in cases[:wanted] if case.image.is_dir()]:
        raise CaseError(f"{series[0]} is a DICOM folder", path=settings.data, remedy="Convert it to NIfTI first")
    return cases[:wanted], label_names(settings.data, cases[:wanted])


def label_names(folder: Path, cases: list[Case]) -> dict[int, str]:
    """Voxel value -> name, from ``labels.json`` ({"1": "name"}) or a ``dataset.json`` as nnU-Net and MSD write it.

    Without either file, each value that occurs in the labels is called "structure VALUE".

    Raises:
        SettingsError: such a file is there but cannot be understood.
    """
    for file, key in ((folder / "labels.json", None), (folder / "dataset.json", "labels")):
        if not file.is_file():
            continue
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            pairs = dict(content if key is None else content[key]).items()
            named = [(one, two) if str(one).isdigit() else (two, one) for one, two in pairs]
            return {int(value): str(name) for value, name in sorted(named, key=lambda pair: int(pair[0])) if int(value)}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SettingsError("names no labels", path=file, remedy='Write {"1": "name", ...}') from error
    return _values_as_names(cases)


def _values_as_names(cases: list[Case]) -> dict[int, str]:
    import numpy as np

    from fm3d_core.volumes import read_label

    values: set[int] = set()
    for case in cases:
        assert case.label is not None  # find_cases(labelled=True)
        values |= set(np.unique(read_label(case.label).array).tolist())
    return {value: f"structure {value}" for value in sorted(values - {0})}


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


@contextmanager
def _progress_bar(console: Console) -> Iterator[Callable[[Progress], None]]:
    """A bar that follows a training's stages, with its loss and the time left."""
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[figures]}"))
    with Bar(*columns, console=console) as bar:
        task = bar.add_task("starting", total=None, figures="")

        def show(event: Progress) -> None:
            left = "" if event.eta is None else f"{event.eta:.0f} s left"
            loss = "" if event.loss is None else f"loss {event.loss:.3f}"
            done = min(event.elapsed / (event.elapsed + event.eta), 1.0) if event.eta is not None else None
            bar.update(
                task,
                description=event.stage,
                total=1.0 if done is not None and event.elapsed + (event.eta or 0) > 0 else None,
                completed=done or 0.0,
                figures="  ".join(part for part in (left, loss) if part),
            )

        yield show


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
