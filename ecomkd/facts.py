"""The former name of `ecomkd.describe.facts`, which notebooks still use."""

from ecomkd.describe.facts import *  # noqa: F403
