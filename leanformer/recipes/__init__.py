"""Complete runs as functions: a recipe by name, or the default recipe for any model."""

from leanformer.recipes import attention_removal, flatten, l2vit, slab, smoke, swiftformer
from leanformer.recipes.registry import default_recipe, find_recipe, list_recipes, published_recipe, recipe

__all__ = [
    "attention_removal",
    "default_recipe",
    "find_recipe",
    "flatten",
    "l2vit",
    "list_recipes",
    "published_recipe",
    "recipe",
    "slab",
    "smoke",
    "swiftformer",
]
