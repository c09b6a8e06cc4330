"""The column meanings that leads have set, stored for the next file with the same columns."""

from pathlib import Path

from labeling.importing.formats.columns.mapping import Mapping, normal
from labeling.importing.reading import FORMATS, detect, first_rows
from labeling.models import ColumnMapping, FileImport, digest


def of(file_import: FileImport, path: Path) -> Mapping | None:
    """Return the mapping that a lead set for this file, or for an earlier one with the same columns.

    `path` is the file in UTF-8. Return None if there is no such mapping.
    """
    if file_import.mapping:
        return Mapping.from_json(file_import.mapping)
    if file_import.format or detect(path) is not FORMATS["columns"]:
        return None
    same_shape = ColumnMapping.objects.filter(project=file_import.project, shape=_shape(path))
    saved = same_shape.first()
    return Mapping.from_json(saved.columns) if saved else None


def remember(file_import: FileImport, path: Path) -> None:
    """Store the mapping of this file for the next one with the same columns."""
    if file_import.mapping:
        ColumnMapping.objects.update_or_create(
            project=file_import.project,
            shape=_shape(path),
            defaults={"columns": file_import.mapping},
        )


def _shape(path: Path) -> str:
    names = {normal(name) for row in first_rows(path) for name in row}
    return digest(sorted(names))
