"""The small texts that everything here is measured with."""

import pathlib
import random

# Files that go the way before a side is measured: programs are compiled while they run, and connections made.
WARM_UP = 1_000


def small_texts(folder: pathlib.Path, files: int, what: str = "gauge") -> None:
    """A hundred folders of short texts, the same every time, no two of them alike. Another `what` makes other texts."""
    chance = random.Random(7)
    for number in range(files):
        place = folder / f"{number % 100:03}"
        place.mkdir(parents=True, exist_ok=True)
        line = f"{what} {number}: the river stood at {chance.random():.3f} m\n"
        (place / f"{number:06}.txt").write_text(line * 5)


def words(folder: pathlib.Path) -> int:
    """How many words stand in all files of a folder."""
    return sum(len(path.read_text().split()) for path in folder.rglob("*.txt"))
