"""Which words the text mask keeps, and what that saves.

    python -m benchmarks.learner.words                  a few minutes on two cores
    python -m benchmarks.learner.words --texts long     with texts that tell of the scene, too

A model is trained on the base phase of the validation classes as `python -m benchmarks.learner --tune` trains it, and
masks that phase's samples. Words of a text hint at what the picture shows (keywords, and what WordNet says of it), or
they tell of its style and scene. Printed is what share of each is kept, and the bytes that an exemplar takes: of whole
texts, by the mask (`dropped`: what the dropped patches attend to), and of as many words as the mask keeps by what the
classifier makes of them (`head`). The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from benchmarks.common.service import Service
from benchmarks.learner import plans
from benchmarks.learner.jobs import Task, train_base
from client import MemoryClient
from learner.data.emoji_catalog import load_catalog
from learner.data.emoji_texts import Lexicon, words
from learner.data.settings import TextLength
from learner.memory.exemplars import Stored, mask_split, record_of
from learner.model.backbones.weights import wordpiece_tokenizer
from learner.model.classifier import Classifier
from learner.model.tokenised import TokenisedSplit
from learner.model.tokens import special_tokens
from learner.run.run import Run
from memory_format import make_codec


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", choices=get_args(TextLength), default="short")
    parser.add_argument("--out", type=Path, default=Path("runs/words"), help="the trained model (default: runs/words)")
    parser.add_argument("--data", type=Path, help="data and weights")
    options = parser.parse_args(arguments)
    plan = plans.tune()
    settings = replace(plan.config.data, texts=options.texts, max_text_tokens=64)
    plan = replace(plan, config=replace(plan.config, data=settings))
    out = options.out.absolute() / options.texts
    with Service(out / "memory") as service:
        task = Task(plan, plan.jobs()[0], 1_000, service.url, out, options.data, threads=torch.get_num_threads())
        train_base(task)
        found = _measure(task)
    for rule, figures in found.items():
        print(f"{rule:8}", "  ".join(f"{name} {value:g}" for name, value in figures.items()))
    print(json.dumps({"texts": options.texts, **found}))
    return 0


def _measure(task: Task) -> dict[str, dict[str, float]]:
    problem = plans.load_problem(task.plan, task.job, task.directory)
    config = task.job.config(task.plan, task.full_sample_bytes)
    with MemoryClient(task.url) as client:
        folder, path = task.job.folder(task.out), task.job.base_path(task.out)
        model, _ = Run(config, problem, client, folder, directory=task.directory, base=path).base()
    classes = problem.phases[0]
    # In the data's order, as what is looked up beside them.
    samples = problem.train.load().of_classes(classes)
    data = plans.load_data(task.plan, task.directory).train
    places = np.flatnonzero(np.isin(data.class_ids, classes))
    hints = _hints([data.sources[place] for place in places], task.directory)
    tokenizer = wordpiece_tokenizer(task.directory)
    is_hint = np.zeros(samples.tokens.token_ids.shape, dtype=bool)
    for row, hinting in enumerate(hints):
        pieces = [tokenizer.id_to_token(number) for number in samples.tokens.token_ids[row].tolist()]
        is_hint[row] = [word in hinting for word in _whole(pieces)]
    is_word = (samples.tokens.token_valid & ~special_tokens(samples.tokens)).numpy()
    masked = mask_split(model, samples, replace(config.mask, text=True), torch.Generator().manual_seed(0))
    by_head = _words_by_head(model, samples, torch.from_numpy(is_word), masked.keep_tokens)
    codec = make_codec(config.memory.codec)
    found = {}
    for rule, keep in {"whole": samples.tokens.token_valid, "dropped": masked.keep_tokens, "head": by_head}.items():
        stored = Stored(samples.tokens, masked.keep_patches, keep)
        charges = [record_of(stored, row, class_id=0, codec=codec).charge for row in range(len(samples))]
        kept = keep.numpy()
        found[rule] = {
            "bytes": round(float(np.mean(charges)), 1),
            "words": round(float(is_word.sum() / len(samples)), 1),
            "hints": round(float((is_hint & is_word).sum() / len(samples)), 1),
            "kept": round(float(kept[is_word].mean()), 2),
            "hints_kept": round(float(kept[is_word & is_hint].mean()), 2),
            "others_kept": round(float(kept[is_word & ~is_hint].mean()), 2),
        }
    return found


@torch.no_grad()
def _words_by_head(model: Classifier, samples: TokenisedSplit, words: Tensor, keep: Tensor) -> Tensor:
    """``(N, T)`` bool: as many words of each sample as ``keep`` has, those that speak most for its class: the product
    of the embedded word with the head's weights for words, of the class less the mean of all."""
    embedded: Tensor = model.backbone._embed_words(samples.tokens).float()  # type: ignore[operator]
    weight = model.head.weight[:, -embedded.shape[2] :].float()
    own = (weight - weight.mean(0))[model.targets(samples.class_ids).cpu()]
    scores = (embedded * own[:, None]).sum(2).masked_fill(~words, -torch.inf)
    rank = scores.argsort(1, descending=True).argsort(1)
    chosen: Tensor = ((rank < (keep & words).sum(1, keepdim=True)) & words) | (keep & ~words)
    return chosen


def _hints(sources: Sequence[str], directory: Path | None) -> list[set[str]]:
    """Of each sample the words that may hint at what it shows."""
    lexicon = Lexicon(directory)
    emoji = {one.key: one for ones in load_catalog(directory).values() for one in ones}
    found = []
    for source in sources:
        one = emoji[source.split("/")[0]]
        found.append({*lexicon.keywords(one), *words(lexicon.gloss(one) or "")})
    return found


def _whole(pieces: Sequence[str]) -> list[str]:
    """For each piece the word that it is of."""
    found: list[str] = []
    start = 0
    for place, piece in enumerate([*pieces, ""]):
        if place and not piece.startswith("##"):
            word = pieces[start] + "".join(rest[2:] for rest in pieces[start + 1 : place])
            found += [word] * (place - start)
            start = place
    return found


if __name__ == "__main__":
    raise SystemExit(main())
