from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from client import ReplayBatch
from client.tensors import to_tensors
from learner.data.base import Split
from learner.memory.exemplars import to_replay
from learner.model.backbones.parts import vilt_from_parts
from learner.model.backbones.weights import load_dinov2_small
from learner.model.tokenised import Encoding, tokenise
from learner.model.tokens import concatenate
from memory_format import FormatError, RawZstd, make_record
from tests.learner.builders import make_tokens


class Numbered:
    """A tokenizer that gives each letter a number."""

    class Encoded:
        def __init__(self, ids: list[int]) -> None:
            self.ids = ids

    def encode_batch(self, texts: list[str]) -> list[Encoding]:
        return [self.Encoded([1, *map(ord, text), 2]) for text in texts]


def _split(texts: list[str]) -> Split:
    images = np.arange(len(texts) * 16 * 16 * 3, dtype=np.int64).reshape(-1, 16, 16, 3).astype(np.uint8)
    return Split(images=images, texts=texts, class_ids=np.arange(len(texts), dtype=np.int64))


def test_samples_become_tokens() -> None:
    split = _split(["ab", "a" * 5_000])
    tokenised = tokenise(split, Numbered(), patch_px=8, max_text_tokens=6).load()
    tokens = tokenised.tokens
    assert tokens.token_ids.tolist() == [[1, 97, 98, 2, 0, 0], [1, 97, 97, 97, 97, 2]]
    assert tokens.token_valid.sum(1).tolist() == [4, 6]
    assert tokens.grid.tolist() == [[2, 2]] * 2
    assert np.array_equal(tokens.patches[1, 3].numpy(), split.images[1][8:, 8:])
    assert tokenised.of_classes([1]).class_ids.tolist() == [1]


def test_what_cannot_become_tokens_is_said() -> None:
    with pytest.raises(FormatError, match="does not divide"):
        tokenise(_split(["a"]), Numbered(), patch_px=7).load()
    with pytest.raises(ValueError, match="no sample"):
        tokenise(_split(["a"]).subset([5]), Numbered(), patch_px=8).load()


def test_keeping_some_moves_them_to_the_front() -> None:
    tokens = make_tokens(num=2)
    keep = torch.tensor([[0, 1, 0, 0, 0, 1, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0, 1, 0]]).bool()
    kept = tokens.keep_patches(keep)
    assert kept.patch_valid.tolist() == [[True, True, True], [True, False, False]]
    assert kept.patch_positions[0].tolist() == [1, 5, 8]
    assert torch.equal(kept.patches[0], tokens.patches[0][[1, 5, 8]])
    assert torch.equal(kept.patches[1, 0], tokens.patches[1, 7])
    both = concatenate([kept, tokens])
    assert both.patch_valid.sum(1).tolist() == [3, 1, 9, 9]


def test_records_come_back_as_the_tokens_they_were() -> None:
    tokens = make_tokens(num=2)
    keep = torch.tensor([[0, 1, 0, 0, 0, 1, 0, 0, 1], [1, 1, 1, 1, 1, 1, 1, 1, 1]]).bool()
    records = [
        make_record(
            class_id=5 + row,
            patches=tokens.patches[row][keep[row]].numpy(),
            keep_mask=keep[row].numpy().reshape(3, 3),
            codec=RawZstd(),
            token_ids=tokens.token_ids[row, :3].numpy(),
        )
        for row in range(2)
    ]
    part = to_replay(to_tensors(ReplayBatch.from_records(records)))
    assert not part.complete
    assert part.class_ids.tolist() == [5, 6]
    assert torch.equal(part.tokens.patches[0, :3], tokens.patches[0][keep[0]])
    assert part.tokens.patch_positions[0, :3].tolist() == [1, 5, 8]
    assert to_replay(to_tensors(ReplayBatch.from_records(records[1:]))).complete


def test_batches_of_similar_length_are_all_samples_without_what_fills_them_up() -> None:
    tokens = concatenate([make_tokens(num=6, text=7), make_tokens(num=5, grid=(2, 2), text=4, seed=1)])
    seen, widths = [], []
    for rows, part in tokens.by_length(3):
        assert part.patch_valid.any(0).all()
        assert part.token_valid.any(0).all()
        for row, place in zip(rows.tolist(), range(len(part)), strict=True):
            whole, cut = tokens[row : row + 1].trimmed(), part[place : place + 1].trimmed()
            for name, values in vars(whole).items():
                assert torch.equal(values, getattr(cut, name)), name
        seen += rows.tolist()
        widths.append(part.patches.shape[1] + part.token_ids.shape[1])
    assert sorted(seen) == list(range(11))
    assert widths == sorted(widths)
    assert widths[0] <= 4 + 4
    assert widths[-1] == 9 + 7
    # Samples of which nothing is left keep a place of each kind.
    empty = tokens.keep_patches(torch.zeros_like(tokens.patch_valid)).trimmed()
    assert empty.patches.shape[1] == 1


def test_blocks_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match=r"some of 0\.\.11"):
        vilt_from_parts(blocks=(0, 12))
    with pytest.raises(ValueError, match=r"some of 0\.\.11"):
        vilt_from_parts(blocks=())


def test_vilt_from_parts_is_dinov2_where_there_is_no_text() -> None:
    """Without words (and at DINOv2's own patch size) the blocks, positions and patch embedding give timm's features."""
    backbone = vilt_from_parts(image_size=56, patch_px=14).eval()
    reference = VisionTransformer(
        img_size=518, patch_size=14, embed_dim=384, num_heads=6, num_classes=0, dynamic_img_size=True
    ).eval()
    reference.load_state_dict(load_dinov2_small())
    pixels = torch.randint(0, 256, (2, 56, 56, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    split = Split(images=pixels.numpy(), texts=["", ""], class_ids=np.zeros(2, dtype=np.int64))
    tokens = tokenise(split, Numbered(), patch_px=14).load().tokens
    tokens = type(tokens)(**{**vars(tokens), "token_valid": tokens.token_valid & False})
    normalised = (pixels.float() - backbone.pixel_mean) / backbone.pixel_std
    with torch.no_grad():
        expected = reference(normalised.permute(0, 3, 1, 2))
        features = backbone(tokens)
    # timm resizes positions in its own way; the class token's feature hardly depends on it.
    assert torch.nn.functional.cosine_similarity(features[:, :384], expected).min() > 0.99
    assert not features[:, 384:].any()  # the words' half
