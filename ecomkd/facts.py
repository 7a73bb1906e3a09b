"""The former name of `ecomkd.describe.facts`, which chapter 12 still uses."""

from ecomkd.describe.facts import *  # noqa: F403
