"""What a wheel holds, and that the README says what is true."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest

from fm3d_core.volumes import draw_case, write_nifti

REPOSITORY = Path(__file__).resolve().parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_the_wheel_carries_the_core_with_its_data_and_the_server_app_and_nothing_else(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
    )
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    written = {"__pycache__", "model", "logs", "bin"}  # by Python, and by a server that was started in place
    sources = {
        str(path.relative_to(REPOSITORY))
        for package in ("fm3d_core", "MonaiLabelApp")
        for path in (REPOSITORY / package).rglob("*")
        if path.is_file() and not written & set(path.relative_to(REPOSITORY).parts)
    }
    assert "MonaiLabelApp/main.py" in names and "fm3d_core/models/presets.yaml" in names
    assert {name for name in names if ".dist-info/" not in name} == sources


def test_ci_installs_and_tests_with_the_readmes_own_commands() -> None:
    ci = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
    blocks = [block.strip() for block in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)]
    install = re.search(r"pip install -e \S+", blocks[0])
    assert install and f"\n{install[0]}\n" in ci
    (tests,) = (block.splitlines() for block in blocks if block.startswith("pytest"))
    for line in tests:
        assert f"\n{line.partition('#')[0].strip()}\n" in ci


GUIDES = {"README.md": README} | {
    f"docs/{path.name}": path.read_text(encoding="utf-8") for path in sorted((REPOSITORY / "docs").glob("*.md"))
}


def commands_of(text: str) -> list[tuple[str, str]]:
    """Each ``fm3d COMMAND`` of the text's bash blocks with what follows it, continued lines joined."""
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    return re.findall(r"\bfm3d(?:_core\.cli\.main)? ([a-z]+)((?: [^\n#`;&]*)?)", blocks)


@pytest.mark.parametrize("guide", GUIDES)
def test_every_command_and_option_of_a_guide_exists(guide: str, capsys: pytest.CaptureFixture[str]) -> None:
    from fm3d_core.cli.main import main

    def help_of(*command: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            main([*command, "--help"])
        assert stopped.value.code == 0
        return capsys.readouterr().out

    helps: dict[tuple[str, ...], str] = {}
    for name, rest in commands_of(GUIDES[guide]):
        help_text = helps[(name,)] = helps.get((name,)) or help_of(name)
        first = next(iter(rest.split()), "")
        if f"• {first} " in help_text:  # a command of commands: data scan
            helps[(name, first)] = helps.get((name, first)) or help_of(name, first)
            help_text += helps[(name, first)]
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in help_text, f"fm3d {name} has no {option}"


def test_the_guides_speak_of_every_command_of_a_clinicians_way() -> None:
    used = {name for name, _ in commands_of(README)}
    assert {"demo", "serve", "finetune", "evaluate", "predict", "adapters", "doctor"} <= used
    assert {"data", "pretrain", "finetune", "weights"} <= {
        name for name, _ in commands_of(GUIDES["docs/pretraining.md"])
    }


def test_the_values_that_the_guide_to_pretraining_sets_are_accepted() -> None:
    from fm3d_core.pretraining.settings import read_configuration, shipped_configurations
    from fm3d_core.pretraining.slurm import parse_slurm

    guide = GUIDES["docs/pretraining.md"]
    for name, rest in commands_of(guide):
        words = rest.split()
        if name == "pretrain" and words and words[0] in shipped_configurations():
            values = [value for option, value in pairwise(words) if option == "--set"]
            read_configuration(words[0], values)
            for option, value in pairwise(words):
                if option == "--slurm":
                    parse_slurm(value)
    for value in re.findall(r"`((?:settings|run)\.[a-z_.]+=[^`]+)`", guide):
        kind = "partial_labels_small" if "label_maps" in value else "small_cpu"
        read_configuration(kind, [value])


def test_the_tables_of_the_guide_to_pretraining_are_whole() -> None:
    from dataclasses import fields

    from fm3d_core.pretraining.settings import RunSettings, shipped_configurations

    guide = GUIDES["docs/pretraining.md"]
    configurations = guide.split("## Configurations")[1].split("## ")[0]
    assert set(re.findall(r"^\| `([a-z0-9_]+)` \|", configurations, re.MULTILINE)) == set(shipped_configurations())
    options = re.findall(
        r"^\| `(\w+)` \| `([^`]+)` \| (yes)? ?\|", guide.split("## Options of the engine")[1], re.MULTILINE
    )
    assert options == [
        (item.name, str(item.default), "yes" if item.metadata.get("may_change") else "") for item in fields(RunSettings)
    ]


@pytest.mark.parametrize("guide", GUIDES)
def test_every_file_a_guide_points_to_exists(guide: str) -> None:
    folder = (REPOSITORY / guide).parent
    for target in re.findall(r"\]\(([^)#]+)\)", GUIDES[guide]):
        assert target.startswith("https://") or (folder / target).exists(), target


def test_the_python_example_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("ab"):
        image, label, affine = draw_case(seed, shape=(24, 24, 24))
        write_nifti(tmp_path / "images" / f"{name}.nii.gz", image, affine)
        write_nifti(tmp_path / "labels" / f"{name}.nii.gz", (label == 1).astype("uint8"), affine)
    for seed, name in enumerate("abc"):  # of the example on whole volumes
        image, _, affine = draw_case(seed, shape=(24, 24, 24))
        write_nifti(tmp_path / f"{name}.nii.gz", image, affine)
    example = "\n".join(re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL))
    for slow in ("seconds=60", 'preset="auto"', "steps=200"):
        assert slow in example
        example = example.replace(slow, "steps=1")
    exec(example, {})  # noqa: S102  # the README's own text
    assert (tmp_path / "b_segmentation.nii.gz").is_file() and (tmp_path / "adapters" / "v0001").is_dir()


def test_the_tests_that_the_guide_of_robustness_names_exist() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", GUIDES["docs/robustness.md"])
    assert len(named) > 40
    for file, test in named:
        assert f"def {test}(" in (REPOSITORY / "tests" / file).read_text(encoding="utf-8"), f"{file} has no {test}"
    text = GUIDES["docs/robustness.md"]
    assert [int(number) for number in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)][:25] == list(range(1, 26))
