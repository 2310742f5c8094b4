"""Edits: structural changes to a built model, as values that are saved with it and replayed when it is loaded."""

from leanformer.edits.edit import Edit, EditReport, apply, edit, parse, replay
from leanformer.edits.norm import FoldNorms

__all__ = ["Edit", "EditReport", "FoldNorms", "apply", "edit", "parse", "replay"]
