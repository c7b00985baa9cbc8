"""A folder that holds one folder `attribute_object` for each composition."""

from pathlib import Path

from czsl_sac.data.listing import IMAGE_SUFFIXES, Entry, Listing, Problem
from czsl_sac.data.sources.paths import is_system_file


def read_folders(root: Path) -> Listing:
    """Return the images of folders that are named `attribute_object`."""
    folders = sorted(
        path for path in root.iterdir() if path.is_dir() and not is_system_file(Path(path.name))
    )
    names = {folder: folder.name.split("_") for folder in folders}
    shapeless = [f.name for f, parts in names.items() if len(parts) == 1 or not all(parts)]
    ambiguous = [f.name for f, parts in names.items() if len(parts) > 2 and all(parts)]
    remedy = "Or describe the images in a table with the columns image, attribute and object."
    problems = [
        Problem(
            "folders not named attribute_object",
            shapeless,
            f"Rename or remove them. {remedy}",
        ),
        Problem(
            "folders with several underscores, so that attribute and object cannot be told apart",
            ambiguous,
            "Keep one underscore, between attribute and object, and write the others as hyphens "
            f"(very-ripe_apple). {remedy}",
        ),
    ]
    entries = [
        Entry(path.relative_to(root).as_posix(), (parts[0], parts[1]), None)
        for folder, parts in names.items()
        if len(parts) == 2 and all(parts)
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in IMAGE_SUFFIXES and not is_system_file(Path(path.name))
    ]
    return Listing(root, root, entries, [problem for problem in problems if problem.cases])
