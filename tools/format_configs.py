"""Lay out the JSON configs: ``python tools/format_configs.py [--check] [FILES]``, or ``make format``.

An object or a list that fits in 120 columns is put on one line. Everything else has one entry per line, except for the
plain arguments of a component, which fill the lines. A list of several objects and three levels of nested objects are
always split. The order of the keys is kept, and so is a blank line before a top-level key. Without FILES: all configs
of the bundle and the JSON files beside its weights; with ``--check`` only the configs.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"
sys.path.insert(0, str(BUNDLE))

from scripts.atomic_files import write_atomically  # noqa: E402
from scripts.errors import InputError  # noqa: E402

COLUMNS = 120
INDENT = 4
LEVELS_ON_A_LINE = 2  # of nested objects
SPACE = re.compile(r"[ \t\n\r]*")


def layout_of(text: str, name: str = "the text") -> str:
    """Return a config's text in the layout described above.

    Args:
        text: a JSON object.
        name: name of the text in messages.

    Raises:
        InputError: the text is no JSON object, or a key occurs twice in an object.
    """
    try:
        content = json.loads(text, object_pairs_hook=as_table)
    except ValueError as error:
        raise InputError(f"{name} is not valid JSON: {error}.") from error
    if not isinstance(content, dict):
        raise InputError(f"{name} holds no JSON object.")
    parted = keys_after_blank_line(text)
    lines = []
    for number, entry in enumerate(entries_of(content, INDENT)):
        lines.append(("\n" if number in parted else "") + " " * INDENT + entry)
    laid_out = "{\n" + ",\n".join(lines) + "\n}\n" if lines else "{}\n"
    if as_line(json.loads(laid_out)) != as_line(content):
        raise RuntimeError(f"{name}: the new layout would change a setting; nothing was written.")
    return laid_out


def as_table(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object with these keys and values.

    Raises:
        ValueError: a key occurs twice; one of its values would be lost.
    """
    keys = [key for key, _ in pairs]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise ValueError(f"the key '{twice[0]}' stands twice in an object")
    return dict(pairs)


def keys_after_blank_line(text: str) -> set[int]:
    """Return which top-level keys of a valid JSON object, counted from 0, have a blank line before them."""
    decoder, found, number = json.JSONDecoder(), set(), 0
    place = text.index("{") + 1
    while True:
        start = end_of_space(text, place)
        if number and text.count("\n", place, start) > 1:
            found.add(number)
        if text[start] == "}":
            return found
        _, place = decoder.raw_decode(text, start)
        colon = end_of_space(text, place)
        _, place = decoder.raw_decode(text, end_of_space(text, colon + 1))
        place = end_of_space(text, place)
        if text[place] == ",":
            number, place = number + 1, place + 1


def end_of_space(text: str, start: int) -> int:
    """Return the index of the first character from ``start`` on that is no white space."""
    found = SPACE.match(text, start)
    return found.end() if found else start


def entries_of(value: dict[str, Any] | list[Any], indent: int) -> list[str]:
    """Return the entries of an object or a list, each without the indentation of its first line and without a comma."""
    if isinstance(value, list):
        return [laid_out_value(part, indent, 0) for part in value]
    keys = [f"{as_line(key)}: " for key in value]
    return [key + laid_out_value(part, indent, len(key)) for key, part in zip(keys, value.values(), strict=True)]


def laid_out_value(value: Any, indent: int, before: int) -> str:
    """Return a value's text.

    Args:
        value: anything that JSON can hold.
        indent: indentation of the line on which the value starts.
        before: columns that the value's key takes, between the indentation and the value.
    """
    line = as_line(value)
    if not isinstance(value, dict | list) or not value:
        return line
    if is_small(value) and indent + before + len(line) + len(",") <= COLUMNS:
        return line
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    inner = "\n" + " " * (indent + INDENT)
    entries = entries_of(value, indent + INDENT)
    if isinstance(value, dict) and "_target_" in value:
        entries = packed(entries, COLUMNS - indent - INDENT - len(","))
    return f"{opening}{inner}{f',{inner}'.join(entries)}\n{' ' * indent}{closing}"


def packed(entries: Sequence[str], columns: int) -> list[str]:
    """Return the entries of a component in their order, with as many plain arguments on a line as fit.

    The ``_target_`` and arguments that contain objects have a line of their own.
    """
    lines: list[str] = []
    has_room = False
    for entry in entries:
        is_plain = not entry.startswith('"_target_"') and "{" not in entry and "\n" not in entry
        if is_plain and has_room and len(f"{lines[-1]}, {entry}") <= columns:
            lines[-1] += f", {entry}"
        else:
            lines.append(entry)
        has_room = is_plain
    return lines


def as_line(value: Any) -> str:
    """Return a value as JSON on one line."""
    return json.dumps(value, ensure_ascii=False)


def is_small(value: Any) -> bool:
    """Return whether a value may be on one line, if it fits."""
    return not has_list_of_objects(value) and levels_of_objects(value) <= LEVELS_ON_A_LINE


def has_list_of_objects(value: Any) -> bool:
    """Return whether a value contains a list of several objects."""
    if isinstance(value, list) and len(value) > 1 and any(isinstance(part, dict) for part in value):
        return True
    return any(has_list_of_objects(part) for part in parts_of(value))


def levels_of_objects(value: Any) -> int:
    """Return the depth of nested objects in a value, 0 for a value without any."""
    return isinstance(value, dict) + max(map(levels_of_objects, parts_of(value)), default=0)


def parts_of(value: Any) -> Iterable[Any]:
    """Return the values in an object or a list; none for anything else."""
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def lay_out(path: Path, check: bool = False) -> bool:
    """Lay out a config file, atomically.

    Args:
        path: the file.
        check: write nothing.

    Returns:
        Whether the file was changed, or would be.

    Raises:
        InputError: the file cannot be read or written, or is no JSON object.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}.") from error
    laid_out = layout_of(text, str(path))
    if laid_out != text and not check:
        with write_atomically(path) as file:
            file.write(laid_out)
    return laid_out != text


def default_files(check: bool) -> list[Path]:
    """Return the configs of the bundle and, unless they are only checked, the files beside its weights."""
    folders = ["configs"] if check else ["configs", "models"]
    return sorted(path for folder in folders for path in (BUNDLE / folder).glob("*.json"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Lay out or check what the command line names; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="what to lay out (default: the bundle's files)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a file would change")
    options = parser.parse_args(arguments)
    failed = False
    for path in options.files or default_files(options.check):
        try:
            changed = lay_out(path, options.check)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            failed = True
            continue
        if changed:
            print(f"{path}: {'not laid out; run make format' if options.check else 'laid out'}", flush=True)
        failed |= changed and options.check
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
