"""Recipes: a published training as one file of data. Adding a data set is adding a file."""

from fm3d_core.recipes.recipe import Recipe, read_recipe, shipped_recipes

__all__ = ["Recipe", "read_recipe", "shipped_recipes"]
