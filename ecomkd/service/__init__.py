"""A service over HTTP around any engine that finds and scores products, or recommends. Chapter 9.

`contract` says what an engine has to offer and which limits there are, `limits` keeps them, `watch`
compares the answers with a teacher's and the queries with those of the past, `app` is the service
as an ASGI application, and `server` puts it behind a socket. Nothing here reaches out to the
network; by default only this machine can reach in. Neither torch nor transformers is loaded.
"""

from importlib.util import find_spec

from ecomkd import lazy

for _needed in ("fastapi", "prometheus_client", "uvicorn"):
    if find_spec(_needed) is None:
        raise ModuleNotFoundError(
            f'{_needed} is not installed, and a service needs it: pip install "ecomkd[serve]".',
            name=_needed,
        )

__getattr__, __dir__ = lazy.names(
    __name__,
    {
        ".contract": "Engine Hit Item Recommender Settings",
        ".limits": "Connections RateLimit",
        ".watch": "agreement judge_served Drift Judged Shadow",
        ".app": "create_app",
        ".server": "background read_queries run",
    },
)
