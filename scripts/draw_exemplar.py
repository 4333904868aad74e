"""docs/masked-exemplar.png, a masked exemplar in four panels: ``python scripts/draw_exemplar.py``.

Photograph: ``skimage.data.astronaut``, by NASA, in the public domain. Masks: the learner's backbone before any training
(DINOv2's blocks, MiniLM's words), image and text mask on, the best 27 % of the patches. Everything that is shown is
read from the record. The words are those of tokens: this caption has one token a word.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.font_manager import FontProperties, findfont
from PIL import Image, ImageDraw, ImageFont
from skimage import data

sys.path.insert(0, str(Path(__file__).parents[1]))
from client import record_from_image
from learner.model.attention_masks import MaskConfig, compute_masks
from learner.model.backbones.parts import vilt_from_parts
from learner.model.backbones.weights import wordpiece_tokenizer
from learner.model.tokens import Tokens
from memory_format import HEADER_BYTES, Record, image_to_patches

OUT = Path(__file__).parents[1] / "docs" / "masked-exemplar.png"
CAPTION = "a smiling astronaut in an orange suit with her helmet, before a flag and a shuttle"
PATCH_PX, IMAGE_PX, KEPT = 16, 320, 0.27
PANEL, GAP, TITLE = 592, 32, 76
GROUND, INK, PALE = "#fbfbfb", "#15181d", "#8b929b"


def exemplar(image: Image.Image) -> tuple[Record, np.ndarray, list[str], np.ndarray]:
    """Its record, the attention ``(h, w)``, the caption's tokens, and which of them are kept ``(T,)``."""
    side = IMAGE_PX // PATCH_PX
    encoded = wordpiece_tokenizer().encode(CAPTION)
    ids = torch.tensor([encoded.ids])
    tokens = Tokens(
        patches=torch.from_numpy(image_to_patches(np.asarray(image), PATCH_PX))[None],
        patch_positions=torch.arange(side * side)[None],
        patch_valid=torch.ones(1, side * side, dtype=torch.bool),
        grid=torch.tensor([[side, side]]),
        token_ids=ids,
        token_positions=torch.arange(ids.shape[1])[None],
        token_valid=torch.ones_like(ids, dtype=torch.bool),
    )
    with torch.inference_mode():
        _, read = vilt_from_parts(image_size=IMAGE_PX, patch_px=PATCH_PX).eval().read(tokens)
    masks = compute_masks(read, tokens, MaskConfig(text=True, image_threshold="quantile", image_amount=KEPT))
    record = record_from_image(
        image,
        class_id=0,
        keep_mask=masks.keep_patches[0].reshape(side, side).numpy(),
        text=CAPTION,
        tokenizer=lambda text: wordpiece_tokenizer().encode(text).ids,
        keep_tokens=masks.keep_tokens[0].numpy(),
    )
    return record, masks.patch_attention[0].reshape(side, side).numpy(), encoded.tokens, masks.keep_tokens[0].numpy()


def heat(image: Image.Image, attention: np.ndarray) -> Image.Image:
    """The picture in grey with its attention in colours, the brighter the more."""
    scaled = np.clip(attention / np.quantile(attention, 0.98), 0, 1)
    smooth = Image.fromarray((255 * scaled).astype(np.uint8)).resize(image.size, Image.Resampling.BICUBIC)
    colours = mpl.colormaps["inferno"](np.asarray(smooth))[..., :3] * 255
    grey = np.asarray(image.convert("L").convert("RGB"))
    return Image.fromarray((0.35 * grey + 0.65 * colours).astype(np.uint8))


def caption(words: list[str], kept: np.ndarray, below: str) -> Image.Image:
    """The words, those kept bold and the others pale; a text below."""
    panel = Image.new("RGB", (PANEL, PANEL), "#ffffff")
    draw = ImageDraw.Draw(panel)
    x, y = 36, 50
    for word, keep in zip(words, kept, strict=True):
        font = _font(52, bold=bool(keep))
        comma = word in ",.;"
        width = draw.textlength(word, font=font)
        x -= 15 if comma else 0
        if x + width > PANEL - 30:
            x, y = 36, y + 84
        draw.text((x, y), word, font=font, fill=INK if keep else PALE)
        x += int(width) + 15
    draw.text((36, PANEL - 30), below, font=_font(34), fill=INK, anchor="ld", spacing=14)
    draw.rectangle((0, 0, PANEL - 1, PANEL - 1), outline="#d3d3d3", width=3)
    return panel


def main() -> None:
    image = Image.fromarray(data.astronaut()).resize((IMAGE_PX, IMAGE_PX), Image.Resampling.BICUBIC)
    record, attention, words, kept = exemplar(image)
    whole = record_from_image(image, class_id=0)
    tokens = record.charge - HEADER_BYTES - len(record.payload) - len(record.keep_mask_bytes)
    below = f"{record.charge:,} bytes in all;\nthe whole picture: {whole.charge:,}"
    panels = [
        ("the picture", image),
        ("what the model looks at", heat(image, attention)),
        (f"stored: {record.num_kept} of {record.keep_mask.size} patches", Image.fromarray(record.image())),
        ("its caption, kept words bold", caption(words[1:-1], kept[1:-1], below)),
    ]
    width, height = 2 * PANEL + 3 * GAP, 2 * (PANEL + TITLE) + 2 * GAP
    card = Image.new("RGB", (width, height), GROUND)
    draw = ImageDraw.Draw(card)
    for place, (title, panel) in enumerate(panels):
        x, y = GAP + place % 2 * (PANEL + GAP), GAP // 2 + place // 2 * (PANEL + TITLE + GAP // 2)
        draw.text((x, y + 14), title, font=_font(38), fill=INK)
        card.paste(panel.resize((PANEL, PANEL), Image.Resampling.LANCZOS), (x, y + TITLE))
    # A light ground of its own and round corners, so that it is read alike on light and dark pages.
    corners = Image.new("L", card.size, 0)
    ImageDraw.Draw(corners).rounded_rectangle((0, 0, width - 1, height - 1), radius=28, fill=255)
    small = card.quantize(256, dither=Image.Dither.FLOYDSTEINBERG).convert("RGB")
    small.putalpha(corners)
    small.save(OUT, optimize=True)
    print(f"wrote {OUT.name}: {OUT.stat().st_size:,} bytes")
    print(
        f"stored: {record.charge:,} bytes, {tokens} of them for the caption; the whole picture: {whole.charge:,} bytes"
    )


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(findfont(FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")), size)


if __name__ == "__main__":
    main()
