"""Complete runs as functions: a recipe by name, or the default recipe for any model."""

from leanformer.recipes import smoke
from leanformer.recipes.registry import default_recipe, find_recipe, list_recipes, recipe

__all__ = ["default_recipe", "find_recipe", "list_recipes", "recipe", "smoke"]
