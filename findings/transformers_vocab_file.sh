#!/usr/bin/env bash
# transformers 5.24.0: BertTokenizer(vocab_file=...) does not read the file; every word becomes [UNK].
#
# What: a tokenizer made of a vocabulary file by name, as it was done up to release 4, where vocab_file was required.
# Guess: the file's vocabulary. Or a TypeError, if the argument is gone.
# Seen: the argument is taken and passed over. The vocabulary is five special tokens, and a sentence is [UNK] for each
#   word, without a warning. The same file without the name of the argument, or as vocab=, is read.
# For this project: all captions would have been the same few tokens, and accuracy only somewhat lower. The learner
#   makes its tokenizer with the package tokenizers (learner/model/backbones/weights.py, wordpiece_tokenizer).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check transformers==5.24.0 tokenizers==0.23.3

export HF_HUB_OFFLINE=1 HF_HOME="$folder/home"
"$folder/venv/bin/python" -I - "$folder" <<'PYTHON'
import sys
import warnings
from pathlib import Path

import transformers
from transformers import BertTokenizer, BertTokenizerFast

# A warning would be enough to notice it.
warnings.simplefilter("error")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "##s", "on", "mat"]
path = Path(sys.argv[1]) / "vocab.txt"
path.write_text("".join(f"{word}\n" for word in WORDS))


def of(tokenizer):
    return len(tokenizer), tokenizer.convert_ids_to_tokens(tokenizer("a cats on a mat")["input_ids"])


seen = {
    "BertTokenizer(path)": of(BertTokenizer(str(path))),
    "BertTokenizer(vocab=path)": of(BertTokenizer(vocab=str(path))),
    "BertTokenizer.from_pretrained(folder)": of(BertTokenizer.from_pretrained(path.parent)),
    "BertTokenizer(vocab_file=path)": of(BertTokenizer(vocab_file=str(path))),
    "BertTokenizerFast(vocab_file=path)": of(BertTokenizerFast(vocab_file=str(path))),
}
print(f"transformers {transformers.__version__}: 'a cats on a mat', a vocabulary of {len(WORDS)}")
print("expected: the same from all, or a TypeError")
for name, (size, tokens) in seen.items():
    print(f"seen:     {name}: {size} entries: {' '.join(tokens)}")
print("source:   transformers/models/bert/tokenization_bert.py, BertTokenizer.__init__: vocab=None means the special tokens")
print("          alone, and **kwargs takes vocab_file; the docstring says that the vocabulary is loaded from vocab_file then")
for name, (size, tokens) in seen.items():
    if "vocab_file" in name:
        assert (size, tokens) == (5, ["[CLS]"] + ["[UNK]"] * 5 + ["[SEP]"]), f"changed: {name}"
    else:
        assert (size, tokens) == (len(WORDS), "[CLS] a cat ##s on a mat [SEP]".split()), f"changed: {name}"
print("as described")
PYTHON
