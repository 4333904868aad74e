"""What token ids mean: a tokenizer's words, and the fingerprint that tells one vocabulary from another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from memory_format.errors import FormatError


def vocabulary_fingerprint(words: Iterable[str]) -> str:
    """What names a vocabulary wherever records of it go: the SHA-256 of its words as a JSON list in UTF-8, without
    spaces, its first 32 hexadecimal digits.

    Args:
        words: the word of token id 0, of token id 1, and so on.

    Raises:
        FormatError: ``invalid_request``: they are no words.
    """
    listed = list(words)
    if isinstance(words, str) or not all(isinstance(word, str) for word in listed):
        raise FormatError("a vocabulary is a list of words, the word of token id 0 first", code="invalid_request")
    text = json.dumps(listed, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]
