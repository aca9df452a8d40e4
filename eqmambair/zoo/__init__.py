"""Weights by name: a table of all that the toolbox knows, those that come with the package, and the others fetched when they are wanted."""

from eqmambair.zoo.cache import bundled_models, cache_folder, check, fetch, find_model, locate
from eqmambair.zoo.table import Entry, entries, find_entry

__all__ = ["Entry", "bundled_models", "cache_folder", "check", "entries", "fetch", "find_entry", "find_model", "locate"]
