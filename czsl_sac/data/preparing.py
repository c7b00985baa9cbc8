"""The downloads of UT-Zappos, MIT-States and C-GQA, brought into the standard layout."""

import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from czsl_sac.checks import check_choice
from czsl_sac.data.counts import TAB7_COUNTS
from czsl_sac.data.protocol import SPLITS
from czsl_sac.data.sources.paths import outside
from czsl_sac.data.sources.standard import METADATA, PAIR_LISTS, read_records
from czsl_sac.files import write_bytes
from czsl_sac.words import counted, some, visible

_FOLDERS = {
    "ut-zappos": ("ut-zappos", "ut-zap50k"),
    "mit-states": ("mit-states",),
    "cgqa": ("cgqa",),
}
"""What the archive of the splits calls a data set."""

_ORIGINAL = ("_images", "ut-zap50k-images", "ut-zap50k/_images", "ut-zap50k/ut-zap50k-images")
"""Where UT-Zappos' images are, by shop category, before they stand by composition."""

_UNPACKED = ("release_dataset/images", "mit-states/images", "cgqa/images")
"""Where the other two data sets' images are after unpacking."""


def prepare(name: str, root: Path, *, splits: Path | None = None) -> Iterator[str]:
    """Bring the unpacked images and the archive of the splits into the standard layout.

    What is done already is left alone, so that an interrupted call can be made again. Images are
    moved or linked, never decoded; UT-Zappos' are also kept where they were.

    Args:
        name: `"ut-zappos"`, `"mit-states"` or `"cgqa"`.
        root: folder in which the images' archive was unpacked; becomes the data set's folder.
        splits: archive `compositional_split_natural.tar.gz`; None takes lists that are in `root`.

    Yields:
        A sentence for each thing that was done.

    Raises:
        ValueError: the name is unknown, or a file is damaged.
        FileNotFoundError: the folder, the lists or the images are missing.
    """
    check_choice("name", name, TAB7_COUNTS)
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {visible(root)}: unpack the images' archive into it")
    if splits is not None:
        taken = _take_lists(name, root, splits)
        yield f"Took {', '.join(taken)} from {visible(splits)}."
    records = read_records(root / METADATA)
    images = root / "images"
    if name == "ut-zappos":
        linked = _link_by_composition(root, records)
        if linked:
            yield f"Linked {counted(linked, 'image')} into folders attribute_object in images/."
    elif not images.exists():
        found = [root / folder for folder in _UNPACKED if (root / folder).is_dir()]
        if not found:
            raise FileNotFoundError(
                f"no images in {visible(root)}: unpack the archive there, so that it holds "
                f"images/ or {_UNPACKED[0]}/"
            )
        found[0].rename(images)
        yield f"Moved {visible(found[0].relative_to(root))}/ to images/."
    spaced = [path for path in sorted(images.glob("* *")) if path.is_dir()]
    for folder in spaced:
        folder.rename(folder.with_name(folder.name.replace(" ", "_")))
    if spaced:
        yield (
            f"Wrote underscores for spaces in the names of {counted(len(spaced), 'folder')}: "
            f"{some([folder.name for folder in spaced])}."
        )


def _take_lists(name: str, root: Path, archive: Path) -> list[str]:
    """Copy pair lists and metadata of a data set out of the archive; nothing else is unpacked."""
    wanted = [METADATA, *(f"{PAIR_LISTS}/{split}_pairs.txt" for split in SPLITS)]
    taken = []
    try:
        with tarfile.open(archive) as members:
            for member in members:
                inside = PurePosixPath(member.name)
                for path in wanted:
                    if inside.match(path) and {*inside.parts} & {*_FOLDERS[name]}:
                        stream = members.extractfile(member)
                        if stream is not None:  # no folder
                            write_bytes(root / path, stream.read())
                            taken.append(path)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{visible(archive)} is damaged but must be a tar archive ({error}): fetch it again."
        ) from error
    missing = sorted({*wanted} - {*taken})
    if missing:
        raise FileNotFoundError(
            f"{visible(archive)} holds no {' and no '.join(missing)} of {name}: fetch "
            "compositional_split_natural.tar.gz"
        )
    return taken


def _link_by_composition(root: Path, records: Sequence[dict[str, Any]]) -> int:
    """Give each image of UT-Zappos the path of its record; return how many got one."""
    absent = [record for record in records if not (root / "images" / record["image"]).exists()]
    if not absent:
        return 0
    found = [root / folder for folder in _ORIGINAL if (root / folder).is_dir()]
    if not found:
        raise FileNotFoundError(
            f"no images in {visible(root)}: unpack the archive there, so that it holds "
            f"{_ORIGINAL[1]}/ or {_ORIGINAL[0]}/"
        )
    pairs = [(str(record.get("_image", "")), record["image"]) for record in absent]
    strange = outside(path for pair in pairs for path in pair if path)
    if strange:
        raise ValueError(
            f"{visible(root / METADATA)} has paths out of the folder ({len(strange)}) but they "
            f"must stay in it: {some(strange)}. Fetch it again."
        )
    linked = 0
    for original, image in pairs:
        source, target = found[0] / original, root / "images" / image
        if original and source.is_file() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source, target)
            except OSError:  # a file system without links
                shutil.copyfile(source, target)
            linked += 1
    return linked
