"""What a wheel holds, and that the README says what is true."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
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
    assert "pytest" in blocks and "\npytest\n" in ci


def test_every_command_and_option_of_the_readme_exists(capsys: pytest.CaptureFixture[str]) -> None:
    from fm3d_core.cli.main import main

    def help_of(*command: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            main([*command, "--help"])
        assert stopped.value.code == 0
        return capsys.readouterr().out

    used = re.findall(
        r"fm3d ([a-z]+)((?: [^\n#`;&]*)?)", "\n".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL))
    )
    assert {"demo", "serve", "finetune", "evaluate", "predict", "adapters", "doctor"} <= {name for name, _ in used}
    for name, rest in used:
        help_text = help_of(name)
        first = next(iter(rest.split()), "")
        if f"• {first} " in help_text:  # a command of commands: data scan
            help_text += help_of(name, first)
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in help_text, f"fm3d {name} has no {option}"


def test_every_file_the_readme_points_to_exists() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (REPOSITORY / target).exists(), target


def test_the_python_example_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("ab"):
        image, label, affine = draw_case(seed, shape=(24, 24, 24))
        write_nifti(tmp_path / "images" / f"{name}.nii.gz", image, affine)
        write_nifti(tmp_path / "labels" / f"{name}.nii.gz", (label == 1).astype("uint8"), affine)
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert "seconds=60" in example
    exec(example.replace("seconds=60", "steps=1"), {})  # noqa: S102  # the README's own text
    assert (tmp_path / "b_segmentation.nii.gz").is_file() and (tmp_path / "adapters" / "v0001").is_dir()
