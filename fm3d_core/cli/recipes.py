"""``fm3d recipes``: published trainings as data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from fm3d_core.errors import CaseError, SettingsError

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Recipes:
    """List the published recipes, show one, or check a list of cases against one before training.

      fm3d recipes list
      fm3d recipes show LA_SEG
      fm3d recipes check LA_SEG --data list.json     # reads cases and one batch, trains nothing, says what is wrong
      fm3d finetune --recipe LA_SEG --data list.json

    A list is JSON as MONAI's ({"training": [{"image": ..., "label": ...}], "validation": [...], "test": [...]}), or CSV
    with the columns image, label, split and whatever the task asks (a class, an age, survival). A recipe of your own is
    a YAML file: begin with what show prints.

    Attributes:
        action: list; show NAME; check NAME.
        name: of a recipe, NAME:VARIANT, or a YAML file.
        data: for check, the list of cases.
        root: where the list's relative paths begin; default: its folder.
        set: change a value of the recipe; may be repeated. Example: --set training.epochs=2
        most: for check, so many cases of each part are read.
    """

    action: tyro.conf.Positional[Literal["list", "show", "check"]] = "list"
    name: tyro.conf.Positional[str | None] = None
    data: Path | None = None
    root: Path | None = None
    set: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="KEY=VALUE")] = ()
    most: int = 20

    def run(self) -> None:
        """Do what ``action`` says."""
        from rich.console import Console

        console = Console()
        if self.action == "list":
            _list(console)
            return
        if self.name is None:
            raise SettingsError(f"{self.action} needs a recipe", remedy="fm3d recipes list says which there are")
        if self.action == "show":
            self._show(self.name, console)
        else:
            self._check(self.name, console)

    def _show(self, name: str, console: Console) -> None:
        import yaml

        from fm3d_core.recipes import read_recipe

        recipe = read_recipe(name, self.set)
        text = yaml.safe_dump(recipe.to_dict(), sort_keys=False, allow_unicode=True, width=100)
        console.print(text, end="", soft_wrap=True, highlight=False, markup=False)

    def _check(self, name: str, console: Console) -> None:
        from fm3d_core.cli.console import progress_bar
        from fm3d_core.recipes import read_recipe
        from fm3d_core.recipes.checking import check_recipe
        from fm3d_core.volumes import read_data_list

        if self.data is None:
            raise SettingsError("check needs a list of cases", remedy="Add --data LIST")
        recipe, listed = read_recipe(name, self.set), read_data_list(self.data, root=self.root)
        with progress_bar(console) as show:
            findings = check_recipe(recipe, listed, most=self.most, progress=show)
        for finding in findings:
            mark = "[red]wrong[/red]" if finding.wrong else "[green]   ok[/green]"
            console.print(mark, end=" ")
            console.print(finding.text, soft_wrap=True, highlight=False, markup=False)
        if wrong := sum(finding.wrong for finding in findings):
            raise CaseError(
                f"{wrong} thing{'s do' if wrong > 1 else ' does'} not fit {recipe.name}",
                path=self.data,
                remedy="Correct the list, or the recipe with --set",
            )


def _list(console: Console) -> None:
    from rich.table import Table

    from fm3d_core.recipes import read_recipe, shipped_recipes

    table = Table(title="Recipes")
    for column in ("name", "what", "task", "reported"):
        table.add_column(column, overflow="fold")
    for name in shipped_recipes():
        recipe = read_recipe(name)
        variants = f" (variants: {', '.join(recipe.variants)})" if recipe.variants else ""
        reported = "; ".join(f"{each.figure} {each.value:g} ({each.cases})" for each in recipe.reported)
        table.add_row(name, recipe.about + variants, str(recipe.task["kind"]), reported or "not published")
    console.print(table)
