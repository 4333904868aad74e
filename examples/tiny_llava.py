"""The model of vision_language.py, LLaVA of transformers with random weights, and what it learns from."""

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from shared import CLASSES, pieces
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from client import picture_part, text_part
from client.sequences import sequences_of
from client.tensors import TensorBatch
from learner.model.backbones.of_transformers import TransformersPictures
from memory_format import Picture, Record, Text, make_record_of_parts

SMALL: Any = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}


def tiny_llava() -> Any:
    torch.manual_seed(0)
    vision, text = CLIPVisionConfig(image_size=96, patch_size=16, **SMALL), LlamaConfig(vocab_size=152_000, **SMALL)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=151_999, tie_word_embeddings=True)
    return LlavaForConditionalGeneration(config)


def words(text: str) -> list[int]:
    return [100_000 + zlib.crc32(word.encode()) % 50_000 for word in text.split()]


@torch.no_grad()
def dialogues(model: Any, task: int, number: int, *, seed: int, keep: float = 1.0) -> Iterator[Record]:
    """Pieces of two photographs each, a share of their patches, by the vision tower's attention, and what is said."""
    look = TransformersPictures(model.model.vision_tower, mean=[0.5] * 3, std=[0.5] * 3)
    rng, classes = np.random.default_rng(seed), range(4 * task, 4 * task + 4)
    shown = {c: pieces(c, number, side=96, seed=seed) for c in classes}
    for place in range(number):
        pair = rng.choice(classes, 2, replace=False)
        pictures = np.stack([shown[c][place] for c in pair])
        seen = look(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255, torch.ones(2, 6, 6).bool(), 1)
        scores = seen.attention[:, :, 0, 1:].mean(1).reshape(2, 6, 6)
        parts: list[Picture | Text] = [
            *(picture_part(picture, attention=a, keep=keep) for picture, a in zip(pictures, scores, strict=True)),
            text_part("user", "Which two are these ?", words),
            text_part("assistant", " ".join(CLASSES[c] for c in pair), words),
        ]
        yield make_record_of_parts(parts, class_id=int(pair[0]), phase=task)


def loss_of(model: Any, batch: TensorBatch) -> torch.Tensor:
    """Of the words that the assistant says, each after all that stands before it."""
    read = sequences_of(batch)
    patches = torch.stack(list(model.model.get_image_features(read.pictures / 127.5 - 1).pooler_output))
    embedded = read.embedded(model.get_input_embeddings()(read.token_ids), patches)
    states = model.model.language_model(inputs_embeds=embedded, attention_mask=read.valid.long()).last_hidden_state
    said = read.token_role == 3
    return F.cross_entropy(model.lm_head(states[:, :-1][said[:, 1:]]), read.token_ids[said])
