"""The Slicer extension's files: nothing is missing from the package, and the module keeps the house rules."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from slicer_env import MODULE_FOLDER

REPOSITORY = MODULE_FOLDER.parent
MODULE_FILES = sorted([MODULE_FOLDER / "SlicerFM3D.py", *(MODULE_FOLDER / "SlicerFM3DLib").rglob("*.py")])
UI_FILES = sorted((MODULE_FOLDER / "Resources/UI").glob("*.ui"))

# Stands in for the SlicerConfig.cmake of a Slicer build: writes down what the extension asks for.
STUB = """
set(Slicer_USE_FILE "${CMAKE_CURRENT_LIST_DIR}/Empty.cmake")
set(Slicer_EXTENSION_GENERATE_CONFIG "${CMAKE_CURRENT_LIST_DIR}/Empty.cmake")
set(Slicer_EXTENSION_CPACK "${CMAKE_CURRENT_LIST_DIR}/Empty.cmake")
set(BUILD_TESTING ON)
set(ASKED "${CMAKE_BINARY_DIR}/asked.txt")
file(WRITE "${ASKED}" "project ${PROJECT_NAME}\\n")
foreach(name HOMEPAGE CONTRIBUTORS DESCRIPTION ICONURL SCREENSHOTURLS DEPENDS)
  file(APPEND "${ASKED}" "EXTENSION_${name} ${EXTENSION_${name}}\\n")
endforeach()
macro(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(MODULE "WITH_GENERIC_TESTS" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  file(APPEND "${ASKED}" "module ${MODULE_NAME}\\n")
  if(MODULE_WITH_GENERIC_TESTS)
    file(APPEND "${ASKED}" "generic tests\\n")
  endif()
  foreach(file ${MODULE_SCRIPTS} ${MODULE_RESOURCES})
    file(APPEND "${ASKED}" "file ${file}\\n")
  endforeach()
endmacro()
macro(slicer_add_python_unittest)
  cmake_parse_arguments(TEST "" "SCRIPT" "" ${ARGN})
  file(APPEND "${ASKED}" "test ${CMAKE_CURRENT_SOURCE_DIR}/${TEST_SCRIPT}\\n")
endmacro()
"""


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> list[tuple[str, str]]:
    """What the extension's CMake files ask of Slicer, as (what, which) in their order."""
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    stub, build = tmp_path_factory.mktemp("stub"), tmp_path_factory.mktemp("build")
    (stub / "SlicerConfig.cmake").write_text(STUB)
    (stub / "Empty.cmake").write_text("")
    command = ["cmake", "-S", str(REPOSITORY), "-B", str(build), f"-DSlicer_DIR={stub}"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr
    return [tuple(line.split(" ", 1)) for line in (build / "asked.txt").read_text().splitlines()]


def test_every_script_and_resource_is_in_the_package(asked):
    listed = [which for what, which in asked if what == "file"]
    there = [
        path.relative_to(MODULE_FOLDER).as_posix()
        for pattern in ("*.py", "SlicerFM3DLib/**/*.py", "Resources/**/*.*")
        for path in MODULE_FOLDER.glob(pattern)
    ]
    assert sorted(listed) == sorted(there)


def test_the_tutorial_shows_pictures_that_exist_and_names_widgets_that_exist():
    tutorial = (REPOSITORY / "docs/tutorial.md").read_text()
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", tutorial)
    sections = ("server", "case", "segment", "clicks", "labels", "train", "models", "insight")
    assert {f"panel_{name}.png" for name in sections} <= set(pictures)
    assert all((REPOSITORY / "docs" / picture).is_file() for picture in pictures)
    texts = "".join(path.read_text() for path in UI_FILES)
    assert not [button for button in re.findall(r"\*\*([^*]+)\*\*", tutorial) if f">{button}<" not in texts]


def test_the_registered_tests_exist(asked):
    tests = [Path(which) for what, which in asked if what == "test"]
    assert [path.name for path in tests] == ["SlicerFM3D.py", "SlicerFM3DPanelTest.py"]
    assert all(path.is_file() for path in tests) and ("generic", "tests") in asked


def test_the_catalogue_entry_and_the_project_have_one_name(asked):
    [entry] = REPOSITORY.glob("*.json")
    catalogue = json.loads(entry.read_text())
    assert ("project", entry.stem) in asked and not entry.stem.startswith("Slicer")
    assert catalogue["scm_url"].startswith("https://") and catalogue["scm_url"].endswith("/SlicerFM3D.git")
    assert catalogue["category"] == "Segmentation" and catalogue["build_subdirectory"] == "."
    assert catalogue["build_dependencies"] == [] and dict(asked)["EXTENSION_DEPENDS"] == "NA"
    assert b"\r" not in entry.read_bytes()


def test_icon_and_screenshots_are_where_their_addresses_say(asked):
    extension = dict(asked)
    for address in (extension["EXTENSION_ICONURL"], *extension["EXTENSION_SCREENSHOTURLS"].split()):
        picture = address.partition("/main/")[2]
        assert (REPOSITORY / picture).read_bytes().startswith(b"\x89PNG"), address
    assert all(extension[f"EXTENSION_{name}"] for name in ("HOMEPAGE", "CONTRIBUTORS", "DESCRIPTION", "SCREENSHOTURLS"))


@pytest.mark.parametrize("path", MODULE_FILES, ids=lambda path: path.name)
def test_the_module_needs_nothing_but_slicer_and_the_standard_library(path):
    """Imports at file level would run at Slicer's start; numpy is slow, anything else has to be installed."""
    tree = ast.parse(path.read_text())
    everywhere = {name.split(".")[0] for node in ast.walk(tree) for name in imported(node)}
    at_file_level = {name.split(".")[0] for node in tree.body for name in imported(node)}
    allowed = set(sys.stdlib_module_names) | {"qt", "ctk", "slicer", "vtk", "SlicerFM3DLib"}
    assert at_file_level <= allowed
    assert everywhere <= allowed | {"numpy", "SampleData"}


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []


def test_the_client_side_runs_without_qt_and_slicer():
    """The end-to-end test and scripts use it so."""
    code = "import sys, SlicerFM3DLib.session; print({'qt', 'slicer', 'vtk', 'numpy'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], cwd=MODULE_FOLDER, capture_output=True, text=True, timeout=60)
    assert run.stdout.strip() == "set()", run.stderr


@pytest.mark.parametrize("path", MODULE_FILES, ids=lambda path: path.name)
def test_house_rules(path):
    text = path.read_text()
    assert not re.search(r"\bprint\(|except BaseException|except:|\.connect\(\s*[\"']|\.exec_\(", text)
    assert text.count("\n") <= 350


# Strings that no user reads: they may be handed to Qt or an exception without _().
NO_WORDS = re.compile(r"[A-Za-z0-9_.{}:/-]*|[^A-Za-z]*")


@pytest.mark.parametrize("path", MODULE_FILES, ids=lambda path: path.name)
def test_what_the_user_reads_can_be_translated(path):
    """Texts given to errors and to text properties go through _()."""
    tree = ast.parse(path.read_text())
    texts = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            texts += node.exc.args
        elif isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Attribute) and target.attr in ("text", "toolTip", "title", "helpText")
            for target in node.targets
        ):
            texts.append(node.value)
    bare = [t.value for t in texts if isinstance(t, ast.Constant) and isinstance(t.value, str)]
    assert not [text for text in bare if not NO_WORDS.fullmatch(text)]


def test_every_widget_the_code_uses_is_in_the_ui_file():
    text = "".join(path.read_text() for path in UI_FILES)
    names = re.findall(r'<widget class="\w+" name="(\w+)"', text)
    assert len(names) == len(set(names)), "the panel has one namespace for all sections"
    used = {name for path in MODULE_FILES for name in re.findall(r"\bui\.(\w+)", path.read_text())}
    assert used <= set(names), used - set(names)
    parameters = re.findall(r'"SlicerParameterName".*?<string>(\w+)', text)
    fields = {"inputVolume", "segmentation", "structures", "seconds", "showUncertainty", "live"}
    assert set(parameters) == fields and len(parameters) == len(fields)


def test_the_tests_for_inside_slicer_pass_here_too():
    import unittest

    sys.path.insert(0, str(MODULE_FOLDER / "Testing/Python"))
    suite = unittest.defaultTestLoader.loadTestsFromName("SlicerFM3DPanelTest")
    result = unittest.TestResult()
    suite.run(result)
    assert result.testsRun == 6 and result.wasSuccessful(), result.failures + result.errors
