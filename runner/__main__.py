"""`python -m runner` is `recipe`."""

from runner.cli.main import entry

if __name__ == "__main__":
    entry()
