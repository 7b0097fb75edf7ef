"""The folder of downloaded files.

Users may choose another folder, empty it, or put files into it by hand: files are verified before they are used.
"""

import os
from pathlib import Path


def folder() -> Path:
    """The folder that the environment variable GPT_DOWNLOAD_DIR names, or `tensorlite` in the platform's cache.

    That is $XDG_CACHE_HOME or ~/.cache on Linux, ~/Library/Caches on macOS, %LOCALAPPDATA% on Windows. It may not
    exist yet.
    """
    if named := os.environ.get("GPT_DOWNLOAD_DIR"):
        return Path(named).expanduser()
    import pooch  # takes a tenth of a second

    return Path(pooch.os_cache("tensorlite"))
