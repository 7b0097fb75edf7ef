"""The command `gpt`, also as `python -m gpt`. Its exit status is 130 also for Ctrl-C while modules are imported."""

import sys


def main() -> None:
    """Run gpt.cli.main. It is imported here, inside the try, since that takes most of a second."""
    try:
        from .cli.main import main

        main()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
