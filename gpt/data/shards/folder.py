"""The folder of shards: which files in it are gpt's, and what is known of each.

    DIR/data.json                 the manifest
    DIR/tokenizer.json            the tokenizer
    DIR/train-00000.tokens ...    shards: files of token ids (tensorlite.data.TokenFile), numbered
    DIR/validation-00000.tokens   those of the validation text
    DIR/verified.json             size and time of each shard whose SHA-256 was compared with the manifest
    DIR/lock                      locked by the process that writes here
    DIR/.next/                    the files of a text that replaces this one as soon as it is complete

The manifest is written before the first file that it lists, and after each pair of shards, in one step. So a killed
process leaves a manifest with complete shards, and files that belong to the next pair, which are written again. Only
files that the manifest lists are replaced or deleted. A link in the place of such a file is refused.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tensorlite.files import LEFTOVER, replacing

from ... import jsonfile, system
from ...fingerprint import fingerprint
from .encoding import PARTS

MANIFEST, TOKENIZER, VERIFIED, LOCK = "data.json", "tokenizer.json", "verified.json", "lock"
NEXT = ".next"
FORMAT, VERSION = "gpt.data", 1
SHARD = re.compile(rf"({'|'.join(PARTS)})-[0-9]{{5,}}\.tokens")
COUNTS = ("documents", "tokens", "text_bytes", "bytes")  # of a shard
Manifest = dict[str, Any]


def shard_name(part: str, number: int) -> str:
    return f"{part}-{number:05d}.tokens"


def is_prepared(folder: Path) -> bool:
    """Whether a path is a folder with a manifest of gpt, which may be damaged."""
    return (folder / MANIFEST).is_file()


# ----- the manifest -----------------------------------------------------------------------------------------------


def read(folder: Path) -> Manifest:
    """The manifest. FileNotFoundError where there is none; ValueError where it is damaged, newer, or not gpt's."""
    path = folder / MANIFEST
    found = jsonfile.read_object(path)
    if found.get("format") != FORMAT:
        raise ValueError(f'{path} is not gpt\'s: it lacks "format": "{FORMAT}"')
    if found.get("version") != VERSION:
        raise ValueError(f"{path} has version {found.get('version')!r:.80}, and this gpt reads version {VERSION}")
    shards, files = found.get("shards"), found.get("files")
    if not isinstance(shards, list) or not isinstance(files, list) or not all(map(_is_shard, shards)):
        raise ValueError(f"{path} is damaged: it does not list shards")
    if not all(isinstance(name, str) and _is_ours(name) for name in files):
        raise ValueError(f"{path} is damaged: it lists files that gpt does not write")
    if not all(isinstance(found.get(name), dict) for name in ("tokenizer", "how", "origin", "place")):
        raise ValueError(f"{path} is damaged: it does not say how the text was prepared")
    return found


def _is_shard(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.get("part") in PARTS
        and isinstance(value.get("name"), str)
        and bool(SHARD.fullmatch(value["name"]))
        and all(type(value.get(name)) is int and value[name] >= 0 for name in COUNTS)
        and isinstance(value.get("sha256"), str)
    )


def _is_ours(name: str) -> bool:
    return name in (TOKENIZER, VERIFIED, LOCK) or bool(SHARD.fullmatch(name))


def write(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, with the names of its files and the next shards; after a crash it is the old or this one."""
    numbers = [int(shard["name"].rpartition("-")[2].partition(".")[0]) for shard in manifest["shards"]]
    following = [shard_name(part, max(numbers, default=-1) + 1) for part in PARTS]
    names = [LOCK, TOKENIZER, VERIFIED, *(shard["name"] for shard in manifest["shards"])]
    manifest["files"] = names if manifest["complete"] else [*names, *following]
    _write_json(folder / MANIFEST, manifest)


def _write_json(path: Path, value: Any) -> None:
    with replacing(path) as file:
        file.write((json.dumps(value, indent=1) + "\n").encode())


def totals(manifest: Manifest, part: str) -> dict[str, int]:
    """The sums of the counts of a part's shards, and their number."""
    shards = [shard for shard in manifest["shards"] if shard["part"] == part]
    return {"shards": len(shards), **{name: sum(shard[name] for shard in shards) for name in COUNTS}}


# ----- ownership --------------------------------------------------------------------------------------------------


@contextmanager
def locked(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Keep other processes from preparing in the folder: RuntimeError where one does. It ends with the process."""
    _refuse_link(folder / LOCK)
    with open(folder / LOCK, "a") as file:
        try:
            free = system.lock(file)
        except OSError as error:
            say(f"warning: the file system of {folder} has no locks ({error.strerror}): do not write there twice")
            free = True
        if not free:
            raise RuntimeError(f"another process is preparing {folder}: wait for it, or name another folder")
        yield


def check_free(folder: Path) -> None:
    """An error unless shards may be written to the folder: it is new, empty, or has a manifest of gpt's."""
    if not folder.is_dir():
        if os.path.lexists(folder):
            raise NotADirectoryError(f"{folder} is a file: name a folder for the shards")
        return
    manifest = next((path for path in (folder, folder / NEXT) if os.path.lexists(path / MANIFEST)), None)
    if manifest is not None:  # that of the next text alone: a process was killed as it put that in its place
        _refuse_link(manifest / MANIFEST)
        for name in read(manifest)["files"]:
            _refuse_link(folder / name)
        return
    other = [name for name in sorted(os.listdir(folder)) if name != LOCK and not LEFTOVER.fullmatch(name)]
    if other:
        raise FileExistsError(
            f"{folder} is not empty, and gpt data prepare did not write {other[0]}: name another folder"
        )


def _refuse_link(path: Path) -> None:
    if path.is_symlink() or (os.path.lexists(path) and not path.is_file()):
        raise ValueError(f"{path} is a link or no file, and gpt does not write through it: move it away")


def remove(folder: Path) -> None:
    """Delete the files that the manifest lists, and then the manifest, so that another text can be prepared there."""
    for name in read(folder)["files"]:
        if name != LOCK:
            (folder / name).unlink(missing_ok=True)
    (folder / MANIFEST).unlink()
    system.sync(folder)


# ----- another text in the place of one ---------------------------------------------------------------------------


def next_folder(folder: Path) -> Path:
    """The folder for a text that is to replace this one, made if it is missing; an error where it is not gpt's."""
    following = folder / NEXT
    if following.is_symlink() or (os.path.lexists(following) and not is_prepared(following) and _entries(following)):
        raise FileExistsError(f"{following} is not gpt's, and the new text is written there first: move it away")
    following.mkdir(exist_ok=True)
    return following


def take_next(folder: Path) -> None:
    """Put the files of a complete next text in the place of this one's. After a crash, the next call goes on.

    FileExistsError, before anything is changed, for a file in the place of a new one that no manifest lists.
    """
    following = folder / NEXT
    if not is_prepared(following) or not (manifest := read(following))["complete"]:
        return
    names = [name for name in manifest["files"] if name != LOCK and os.path.lexists(following / name)]
    if is_prepared(folder):
        mine = read(folder)["files"]
        if foreign := [name for name in names if name not in mine and os.path.lexists(folder / name)]:
            raise FileExistsError(
                f"{folder / foreign[0]} is not gpt's, and the new text has a file of that name: move it away"
            )
        remove(folder)
    for name in [*names, MANIFEST]:
        os.replace(following / name, folder / name)
    system.sync(folder)
    _remove_folder(following)


def remove_next(folder: Path) -> None:
    """Delete the files of a next text that cannot be completed."""
    remove(folder / NEXT)
    _remove_folder(folder / NEXT)


def _remove_folder(following: Path) -> None:
    remove_leftovers(following)
    with suppress(OSError):  # somebody else's file is in it
        following.rmdir()


def _entries(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else [folder.name]


def remove_unfinished(folder: Path, manifest: Manifest) -> None:
    """Delete what a killed process has left: shards that the manifest only announces, and temporary files."""
    done = {shard["name"] for shard in manifest["shards"]}
    for name in manifest["files"]:
        if SHARD.fullmatch(name) and name not in done:
            (folder / name).unlink(missing_ok=True)
    remove_leftovers(folder)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files that killed processes have left."""
    for name in os.listdir(folder):
        if LEFTOVER.fullmatch(name):
            (folder / name).unlink()


# ----- damage -----------------------------------------------------------------------------------------------------


def verify(folder: Path, manifest: Manifest, advance: Callable[[int], None] = lambda size: None) -> None:
    """Compare each shard, and the tokenizer, with the SHA-256 in the manifest; ValueError for one that differs.

    A shard is read once: its size and time are noted in verified.json, and it is read again where they change.
    `advance` gets the length in bytes of each shard.
    """
    path = folder / TOKENIZER
    if fingerprint(path)["sha256"] != manifest["tokenizer"].get("sha256"):
        raise ValueError(f"{path} is missing, damaged or changed: its SHA-256 is not that of {folder / MANIFEST}")
    known, before = _verified(folder), _verified(folder)
    try:
        for shard in manifest["shards"]:
            known[shard["name"]] = _verify_shard(folder / shard["name"], shard, known.get(shard["name"]))
            advance(shard["bytes"])
    finally:
        if known != before and os.access(folder, os.W_OK):
            _refuse_link(folder / VERIFIED)
            _write_json(folder / VERIFIED, known)


def _verify_shard(path: Path, shard: Mapping[str, Any], known: Any) -> list[int]:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: put it back, or prepare the text again with --overwrite") from None
    stamp = [found.st_size, found.st_mtime_ns]
    if found.st_size != shard["bytes"] or (
        known != stamp and fingerprint(path) != {name: shard[name] for name in ("bytes", "sha256")}
    ):
        raise ValueError(
            f"{path} is damaged: its length or SHA-256 is not that of the manifest; put the file back, or prepare the "
            "text again with --overwrite"
        )
    return stamp


def _verified(folder: Path) -> dict[str, list[int]]:
    """The size and time of each shard that was verified; nothing where the file is missing or damaged."""
    try:
        return jsonfile.read_object(folder / VERIFIED)
    except (OSError, ValueError):
        return {}
