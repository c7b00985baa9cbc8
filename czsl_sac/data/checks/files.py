"""What can be wrong with the image files of a data set."""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from czsl_sac.data.listing import IMAGE_SUFFIXES, Listing, Problem
from czsl_sac.data.scan import ImageFacts
from czsl_sac.data.sources.paths import files_below, is_system_file


def check_files(listing: Listing, facts: Sequence[ImageFacts]) -> Iterator[Problem]:
    """Yield what is wrong with files: absent, damaged, misnamed, or in no list."""
    named = isinstance(listing.folder, Path)  # the images of a store have no suffixes
    yield Problem(
        "images missing or damaged",
        [f"{fact.path} ({fact.problem})" for fact in facts if fact.problem],
        "Restore them, drop them from the list, or train with --on-bad-image skip.",
    )
    yield Problem(
        "images with more than 8 bits a colour",
        [f"{fact.path} ({fact.bits} bits)" for fact in facts if fact.bits > 8 and not fact.problem],
        "They are scaled to 8, black to black and white to white. Where their values fill a part "
        "of the range only, they are read too dark: save them with 8 bits then.",
        spoils=False,
    )
    yield Problem(
        "images with the wrong suffix",
        [
            f"{fact.path} (holds {fact.format})"
            for fact in facts
            if named
            and fact.format
            and IMAGE_SUFFIXES.get(Path(fact.path).suffix.lower()) != fact.format
        ],
        "They are read by their content all the same; rename them for other programs.",
        spoils=False,
    )
    listed = {fact.path for fact in facts}
    unlisted = [path for path in _files(listing) if path not in listed]
    yield Problem(
        "image files in no list",
        [path for path in unlisted if _is_image(path)],
        "They are not used.",
        spoils=False,
    )
    # Tables, lists of words and the like may stand at the top.
    yield Problem(
        "files among the images without the suffix of an image",
        [path for path in unlisted if "/" in path and not _is_image(path)],
        f"They are not used; images end in {', '.join(IMAGE_SUFFIXES)}.",
        spoils=False,
    )
    yield Problem(
        "folders with spaces in their names",
        sorted({folder for path in unlisted if " " in (folder := path.rpartition("/")[0])}),
        "The standard layout writes attribute_object: rename them, spaces to underscores.",
        spoils=False,
    )


def _files(listing: Listing) -> list[str]:
    """Files of an image folder; for a table, those beside its images, wherever it may stand."""
    root = listing.folder
    if not isinstance(root, Path):
        return []
    if listing.source.is_dir() or listing.pair_lists is not None:
        return [path.relative_to(root).as_posix() for path in files_below(root)]
    folders = {PurePosixPath(entry.image).parent for entry in listing.entries}
    return sorted(
        (folder / path.name).as_posix()
        for folder in folders
        if (root / folder).is_dir()
        for path in (root / folder).iterdir()
        if path.is_file() and not is_system_file(Path(path.name))
    )


def _is_image(path: str) -> bool:
    return Path(path).suffix.lower() in IMAGE_SUFFIXES
