"""The former name of `ecomkd.people`, which notebooks still use."""

from ecomkd.people.cards import *  # noqa: F403
from ecomkd.people.habits import *  # noqa: F403
from ecomkd.people.households import *  # noqa: F403
from ecomkd.people.shoppers import *  # noqa: F403
