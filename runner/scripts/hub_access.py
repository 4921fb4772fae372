"""May this user have the files of some repositories?

spec.hashed: repositories, a list of {id, kind, revision}. Reports nothing; ends with the error that
fetching them would end with.
"""

from __future__ import annotations

from runner.scripts.hub_client import Hub, Repository
from runner.scripts.spec import Events, Spec, main


def hub_access(spec: Spec, events: Events) -> None:
    """Ask the hub for every one of them."""
    hub = Hub()
    for each in spec.hashed["repositories"]:
        hub.check_access(Repository(**each))


if __name__ == "__main__":
    main(hub_access)
