"""Which commits the branches and tags of a recipe are at this moment.

spec.hashed: repositories, a list of {id, kind, revision}. Reports the measure `commits`, in order.
"""

from __future__ import annotations

from runner.scripts.hub_client import Hub, Repository
from runner.scripts.spec import Events, Spec, main


def hub_commits(spec: Spec, events: Events) -> None:
    """Ask the hub for every one of them."""
    hub = Hub()
    asked = [Repository(**each) for each in spec.hashed["repositories"]]
    events.measure(commits=[hub.commit(repository) for repository in asked])


if __name__ == "__main__":
    main(hub_commits)
