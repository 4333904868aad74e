"""``learner caption``: a text for each picture of a folder."""

from __future__ import annotations

import argparse

from rich.console import Console


def caption(arguments: argparse.Namespace, console: Console) -> int:
    """Write what is missing; the exit status is 1 where a picture cannot be read."""
    from learner.model.captioner import Captioner, caption_folder

    def model() -> Captioner:
        console.print(f"loading {arguments.model} ...", markup=False)
        return Captioner(
            arguments.model,
            prompt=arguments.prompt,
            max_new_tokens=arguments.max_new_tokens,
            device=arguments.device,
        )

    found, written, bad = caption_folder(arguments.images, arguments.out, model, batch_size=arguments.batch_size)
    console.print(f"{arguments.out}: {written} captions written, {found} were there", markup=False)
    for reason in bad:
        console.print(f"no caption: {reason}", markup=False)
    return 1 if bad else 0
