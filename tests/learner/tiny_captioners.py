"""Captioning models of the real classes, a few thousand random weights each, saved as a hub model is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    BlipTextConfig,
    BlipVisionConfig,
    CLIPImageProcessor,
    CLIPVisionConfig,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

PROMPT = "describe the image"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<pad>", "</s>", "<unk>", "<image>"]
VOCABULARY = {word: i for i, word in enumerate([*SPECIAL, *PROMPT.split(), *(f"w{i}" for i in range(60))])}
SMALL: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
CHAT = (
    "{% for message in messages %}w1 {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }}{% endif %}{% endfor %} w2 {% endfor %}"
)
IMAGES = BlipImageProcessor(size={"height": 16, "width": 16})


def instructblip(folder: Path) -> Path:
    """InstructBLIP: vision transformer, Q-Former and, as its language model, OPT."""
    vision = InstructBlipVisionConfig(**SMALL, num_hidden_layers=1, image_size=16, patch_size=8)
    qformer = InstructBlipQFormerConfig(
        **SMALL, num_hidden_layers=2, vocab_size=len(VOCABULARY) + 8, encoder_hidden_size=16
    )
    text = OPTConfig(
        vocab_size=len(VOCABULARY) + 8,
        hidden_size=16,
        word_embed_proj_dim=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        ffn_dim=16,
        max_position_embeddings=128,
        pad_token_id=VOCABULARY["<pad>"],
        bos_token_id=VOCABULARY["</s>"],
        eos_token_id=VOCABULARY["</s>"],
    )
    config = InstructBlipConfig(
        vision_config=vision.to_dict(),
        qformer_config=qformer.to_dict(),
        text_config=text.to_dict(),
        num_query_tokens=4,
        image_token_index=VOCABULARY["<image>"],
    )
    processor = InstructBlipProcessor(
        IMAGES,
        _tokenizer(pad_token="<pad>", eos_token="</s>", bos_token="</s>", unk_token="<unk>"),
        _tokenizer(pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]"),
        num_query_tokens=4,
    )
    _loud(InstructBlipForConditionalGeneration, config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def blip(folder: Path) -> Path:
    """BLIP, which goes on from its prompt."""
    text = BlipTextConfig(
        **SMALL,
        num_hidden_layers=1,
        vocab_size=len(VOCABULARY),
        encoder_hidden_size=16,
        projection_dim=16,
        max_position_embeddings=64,
        bos_token_id=VOCABULARY["[CLS]"],
        eos_token_id=VOCABULARY["[SEP]"],
        sep_token_id=VOCABULARY["[SEP]"],
        pad_token_id=VOCABULARY["[PAD]"],
    )
    vision = BlipVisionConfig(**SMALL, num_hidden_layers=1, image_size=16, patch_size=8, projection_dim=16)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    config = BlipConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16)
    _loud(BlipForConditionalGeneration, config).save_pretrained(folder)
    BlipProcessor(IMAGES, BertTokenizer(str(folder / "vocab.txt"))).save_pretrained(folder)
    return folder


def llava(folder: Path) -> Path:
    """LLaVA: CLIP and Llama, asked in a chat; it repeats what it was asked before it answers."""
    vision = CLIPVisionConfig(**SMALL, num_hidden_layers=2, image_size=16, patch_size=8, projection_dim=16)
    text = LlamaConfig(
        **SMALL,
        num_hidden_layers=1,
        num_key_value_heads=2,
        vocab_size=len(VOCABULARY),
        max_position_embeddings=64,
        pad_token_id=VOCABULARY["<pad>"],
        bos_token_id=VOCABULARY["</s>"],
        eos_token_id=VOCABULARY["</s>"],
    )
    config = LlavaConfig(
        vision_config=vision.to_dict(), text_config=text.to_dict(), image_token_index=VOCABULARY["<image>"]
    )
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        _tokenizer(pad_token="<pad>", eos_token="</s>", unk_token="<unk>", additional_special_tokens=["<image>"]),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    )
    _loud(LlavaForConditionalGeneration, config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _tokenizer(**special: str | list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def _loud(kind: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedModel:
    """A model whose weights are large enough for its words to depend on the picture."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = kind(config)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.6)
    return model
