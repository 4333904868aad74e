"""What classes are called: learners with numbers of their own agree on a buffer's by the names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count

from memory_format import ConflictError, FormatError
from memory_format.api.fields import MAX_CLASS_ID


def agreed(
    known: Mapping[int, str], seen: frozenset[int], names: Sequence[str], class_ids: Sequence[int] | None
) -> tuple[list[int], dict[int, str]]:
    """The ids of classes by name, and of those the new ones with their names.

    A new name gets the smallest id that neither has a name nor was ever offered a record of.

    Args:
        known: class id -> name.
        seen: classes that records were ever offered of.
        class_ids: ids that the names are to have.

    Raises:
        FormatError: ``invalid_request``: a name or an id comes twice, or there are not as many of both.
        ConflictError: ``class_name_taken``: a name has another id, or an id another name.
    """
    if len(set(names)) != len(names):
        raise FormatError("a class's name comes twice", code="invalid_request")
    ids = {name: class_id for class_id, name in known.items()}
    if class_ids is None:
        free = (class_id for class_id in count() if class_id not in known and class_id not in seen)
        added = {next(free): name for name in names if name not in ids}
        if added and max(added) > MAX_CLASS_ID:
            raise FormatError("no class id is free any more", code="invalid_request")
    else:
        if not len(set(class_ids)) == len(class_ids) == len(names):
            raise FormatError("as many class_ids as names are needed, each once", code="invalid_request")
        for class_id, name in zip(class_ids, names, strict=True):
            if known.get(class_id, name) != name or ids.get(name, class_id) != class_id:
                there = f"class {class_id} is {known[class_id]!r}" if class_id in known else f"it is class {ids[name]}"
                raise ConflictError(
                    f"class {class_id} cannot be {name!r}: {there}; names stay what they are",
                    code="class_name_taken",
                    class_id=class_id,
                )
        added = {class_id: name for class_id, name in zip(class_ids, names, strict=True) if class_id not in known}
    ids |= {name: class_id for class_id, name in added.items()}
    return [ids[name] for name in names], added
