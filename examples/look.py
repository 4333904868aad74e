"""Look at what is stored: a table of exemplars, and a sheet of their pictures.

Without arguments a service starts here, and stores a few photographs by the attention of a pretrained ViT, whose
weights (85 MB) are downloaded the first time. With --url and --buffer it looks at a buffer of yours. Takes about 10 s
on two cores, prints a line for each exemplar and writes the sheet, dropped patches grey.
"""

import argparse

from PIL import Image
from shared import CLASSES, service
from skimage import data

from client import Buffer, MemoryClient, record_from_image

TEXTS = ("a cup of coffee", "a cat looks up", "an astronaut in orange", "a rocket at dusk", "a wall of bricks")


def fill(buffer: Buffer) -> None:
    from learner.model.vit import pretrained_vit, vit_attention

    pictures = [getattr(data, name)() for name in CLASSES[: len(TEXTS)]]
    for class_id, scores in enumerate(vit_attention(pretrained_vit(), pictures)):
        of_class = {"class_id": class_id, "attention": scores, "text": TEXTS[class_id]}
        buffer.push([record_from_image(pictures[class_id], keep=keep, **of_class) for keep in (0.27, 1.0)])


def sheet(pictures: list[Image.Image], columns: int = 4, side: int = 224) -> Image.Image:
    rows = -(-len(pictures) // columns)
    page = Image.new("RGB", (columns * (side + 8) + 8, rows * (side + 8) + 8), "white")
    for place, picture in enumerate(pictures):
        picture.thumbnail((side, side))
        page.paste(picture, (8 + place % columns * (side + 8), 8 + place // columns * (side + 8)))
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="of a service that runs; default: start one")
    parser.add_argument("--buffer", default="look")
    parser.add_argument("--out", default="sheet.png")
    parser.add_argument("--limit", type=int, default=24, help="exemplars to show")
    arguments = parser.parse_args()
    with service(arguments.url) as url, MemoryClient(url) as memory:
        if arguments.url is None:
            fill(memory.create_buffer(arguments.buffer, budget_bytes=100_000))
        records = list(memory.buffer(arguments.buffer).records(limit=arguments.limit))
    print("   id class phase patches tokens  bytes  text")
    for r in records:
        patches = f"{r.num_kept}/{r.keep_mask.size}"
        print(f"{r.exemplar_id:5} {r.class_id:5} {r.phase:5} {patches:>7} {len(r.token_ids):6} {r.charge:6}", end="  ")
        print(r.user_json().get("text", "-"))
    sheet([Image.fromarray(record.image()) for record in records]).save(arguments.out)
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
