"""What tells that a dataset is what was written: a digest of every document, of every sample, of every whole array.

A dataset draws an identity when it is made.  It enters every digest, with the place in the dataset of what is digested,
so that neither a file of another dataset nor one of another place passes.  Digests are no signatures: they are against
accidents, not against somebody who computes them anew.  Datasets of earlier versions have no identity and no digests.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from hippylib_dino.errors import DatasetError
from hippylib_dino.files import write_file

IDENTITY = "identity"
DIGEST = "digest"
CONTENT = "content digest"  # of an array that is one chunk, or of all rows of one that is written once
DIGESTS = "digests"  # the arrays whose digests are in the last columns of "work", in this order
METADATA = "zarr.json"
_RESTORE = "Restore that file from a backup, or generate again into another directory."


def digest(*parts: bytes | str) -> str:
    """Of some byte strings in order, each with its length."""
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        found.update(len(content).to_bytes(8, "little") + content)
    return found.hexdigest()


def array_digest(identity: str, place: str, values: np.ndarray) -> str:
    """Of an array as a whole."""
    values = np.ascontiguousarray(values, dtype="<f8")
    return digest(identity, place, str(values.shape), values.tobytes())


def row_digest(identity: str, place: str, index: int, values: np.ndarray) -> float:
    """Of one sample's row of an array: 48 bits, which a float64 holds exactly."""
    return float(int(digest(array_digest(identity, place, values), str(index))[:12], 16))


def document_digest(document: dict, identity: str, place: str) -> str:
    """Of a JSON document but for its own digest; numerals count as they are spelled."""
    content, _ = _split(document)
    spelled = json.loads(json.dumps(content), parse_int=_numeral, parse_float=_numeral)
    return digest(identity, place, json.dumps(spelled, sort_keys=True))


def _numeral(text: str) -> dict:
    return {"numeral": text}


def _split(document: dict) -> tuple[dict, Any]:
    """A document without its digest, and that; Zarr's documents have it among their attributes."""
    if isinstance(document.get("attributes"), dict):
        attributes = dict(document["attributes"])
        found = attributes.pop(DIGEST, None)
        return {**document, "attributes": attributes}, found
    content = dict(document)
    return content, content.pop(DIGEST, None)


def write_document(file: Path, document: dict, identity: str | None, place: str) -> None:
    """Write a JSON document with its digest, at once; without an identity as it is."""
    if identity is not None:
        document, _ = _split(document)
        target = document.get("attributes", document)
        target[DIGEST] = document_digest(document, identity, place)
    content = json.dumps(document, indent=2).encode()
    write_file(file, lambda stream: stream.write(content))


def read_document(file: Path, identity: str | None, place: str, *, remedy: str = _RESTORE) -> dict:
    """A JSON document; with an identity it must have the digest of its content and place.

    Raises
    ------
    DatasetError
        That names the file and what to do, if it is missing, damaged, altered or from elsewhere.
    """
    try:
        text = file.read_text()
        document = json.loads(text)
        if not isinstance(document, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {error}"
        raise DatasetError(f"{what(place)} is damaged ({file} {reason}). {remedy}") from error
    if identity is not None:
        spelled = json.loads(text, parse_int=_numeral, parse_float=_numeral)
        content, found = _split(spelled)
        if found != digest(identity, place, json.dumps(content, sort_keys=True)):
            raise DatasetError(
                f"{what(place)} is damaged ({file} is not what was written: it was altered, or comes from another "
                f"dataset or place). {remedy}"
            )
    return document


def what(place: str) -> str:
    """A place in a dataset, in words."""
    first = place.split("/")[0]
    if place == "":
        return "the dataset"
    if first in ("given", "failures", "runs"):
        return f"the folder {first!r}"
    return f"array {place!r}"
