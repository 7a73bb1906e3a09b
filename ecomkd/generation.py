"""The former name of `ecomkd.describe.generation`, which notebooks still use."""

from ecomkd.describe.generation import *  # noqa: F403
