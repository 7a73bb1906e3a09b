"""The former name of `ecomkd.service`, kept for chapter 9's cells. Chapter 9."""

from ecomkd.service.app import create_app
from ecomkd.service.contract import Engine, Hit, Settings
from ecomkd.service.limits import RateLimit
from ecomkd.service.server import background, read_queries, run
from ecomkd.service.watch import Drift, Shadow, agreement

__all__ = [
    "Drift",
    "Engine",
    "Hit",
    "RateLimit",
    "Settings",
    "Shadow",
    "agreement",
    "background",
    "create_app",
    "read_queries",
    "run",
]
