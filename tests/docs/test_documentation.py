"""What the documentation names is there: commands with their options, and every public function."""

import re
import shlex
from pathlib import Path

import pytest
import typer

import ckrm_kernels
from ckrm_kernels.commands import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = re.compile(r"(?:^ {4}(?:.* )?|`)(ckrm [a-z][^`\n#]*)", re.MULTILINE)
COMMANDS = sorted({line.strip() for page in PAGES for line in COMMAND.findall(page.read_text())})
EGD = "--data egd-cxr --data-folder EGD-CXR --image-folder MIMIC-CXR"


@pytest.mark.parametrize("line", COMMANDS)
def test_the_command_takes_these_options(line):
    name, *arguments = shlex.split(line.replace("$EGD", EGD).replace("$AUTHOR", "--epochs 1000"))[1:]
    command = typer.main.get_command(app).commands[name]
    if arguments:  # `ckrm measure` alone speaks of the command
        command.make_context(name, arguments)


def test_commands_are_found():
    assert len(COMMANDS) > 20
    assert {shlex.split(line)[1] for line in COMMANDS} == set(typer.main.get_command(app).commands)


def test_every_public_name_has_its_place():
    shown = re.findall(r"^::: ckrm_kernels\.(\w+)$", (ROOT / "docs/api/index.md").read_text(), re.MULTILINE)
    assert sorted(shown) == sorted(ckrm_kernels.__all__)


OPTIONS = {
    option
    for command in typer.main.get_command(app).commands.values()
    for parameter in command.params
    for option in parameter.opts
    if option.startswith("--") and option != "--help"
}


@pytest.mark.parametrize("option", sorted(OPTIONS))
def test_every_option_has_its_place(option):
    page = (ROOT / "docs/command-line.md").read_text()
    assert re.search(rf"(?<![\w-]){option}(?![\w-])", page)
