"""Write the lowest versions that pyproject.toml allows, as constraints for pip.

    python tools/lowest.py > lowest.txt
    pip install -c lowest.txt -e ".[book,test]"
    PYTHONPATH=tools python -m book stored
    python -m pytest tests/test_losses.py tests/test_distill.py tests/test_models.py …

pip resolves to the newest versions alone, so the bounds are proved by installing them by name.
torch is left out: which builds of it can be installed depends on the machine.
"""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent


def requirements(*extras: str) -> list[Requirement]:
    """The package's own requirements and those of `extras`, where an extra may name others."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    found, waiting = [], list(project["dependencies"])
    for extra in extras:
        waiting += project["optional-dependencies"][extra]
    while waiting:
        requirement = Requirement(waiting.pop(0))
        if canonicalize_name(requirement.name) == project["name"]:
            for extra in sorted(requirement.extras):
                waiting += project["optional-dependencies"][extra]
        elif requirement not in found:
            found.append(requirement)
    return found


def lowest(requirement: Requirement) -> str:
    """The lowest version of a requirement as a pin, `name==version`.

    Raises:
        ValueError: the requirement has no lower bound.
    """
    bounds = [Version(s.version) for s in requirement.specifier if s.operator in (">=", "==")]
    if not bounds:
        raise ValueError(f"{requirement}: no lower bound; write {requirement.name}>=VERSION.")
    return f"{requirement.name}=={max(bounds)}"


def extras() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return list(project["optional-dependencies"])


if __name__ == "__main__":
    every = [r for r in requirements(*extras()) if canonicalize_name(r.name) != "torch"]
    print("\n".join(sorted(map(lowest, every), key=str.lower)))
