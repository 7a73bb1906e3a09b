"""The names of `shared`, for the scripts that still import them from here."""

from shared import *  # noqa: F403
