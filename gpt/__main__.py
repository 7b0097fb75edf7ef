"""The command `gpt`, also as `python -m gpt`. Ctrl-C while modules are still imported ends it with 130 too."""

import sys


def main() -> None:
    """`cli.main`, which is imported here, since that takes most of a second."""
    try:
        from .cli.main import main

        main()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
