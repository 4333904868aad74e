"""Two learners on one buffer, in step: each stores classes of its own, and draws from what both have stored.

Two processes, which might as well be on two machines, push to one buffer at the same time. The budget holds for both
together, and the service keeps the classes level. Each phase has a class of each: who has stored its own waits until
the other has, so both draw from the same. Starts a service of its own, takes about 10 s on two cores, and
prints whose exemplars each learner drew, and what the buffer holds in the end. Argument: pictures of a class.
"""

import multiprocessing
import sys
from collections import Counter

import numpy as np
from shared import CLASSES, pieces, service

from client import MemoryClient, record_from_image
from memory_format import Record


def exemplar(image: np.ndarray, class_id: int, learner_id: str) -> Record:
    """Any map of scores will do as attention. Here it is how far a pixel is from the picture's mean."""
    unlike = np.abs(image - image.mean((0, 1))).sum(2)
    return record_from_image(image, class_id=class_id, learner_id=learner_id, attention=unlike)


def learn(url: str, learner_id: str, classes: list[int], pictures: int) -> None:
    """What each process does."""
    with MemoryClient(url) as memory:
        buffer = memory.buffer("shared")
        for phase, class_id in enumerate(classes, 1):
            buffer.push([exemplar(image, class_id, learner_id) for image in pieces(class_id, pictures)])
            buffer.enter_phase(phase, learner_id=learner_id, ended=phase == len(classes))
            buffer.wait_for_phase(phase, 2, timeout=240)
        batch = buffer.sample(32, seed=0, step=0, strategy="class_balanced")
        whose = Counter(record.learner_id for record in batch.records)
        print(f"{learner_id} drew 32 exemplars: {dict(sorted(whose.items()))}", flush=True)


def main(pictures: int) -> None:
    spawn = multiprocessing.get_context("spawn")
    with service() as url, MemoryClient(url) as memory:
        buffer = memory.create_buffer("shared", budget_bytes=40_000)
        tasks = [(url, "ada", [0, 2, 4], pictures), (url, "ben", [1, 3, 5], pictures)]
        learners = [spawn.Process(target=learn, args=task) for task in tasks]
        for learner in learners:
            learner.start()
        for learner in learners:
            learner.join()
        if any(learner.exitcode for learner in learners):
            sys.exit("a learner did not come to its end: see above")
        stats = buffer.stats()
    print(f"held: {stats.bytes_used:,} of {stats.budget_bytes:,} bytes, exemplars by learner: {stats.learners}")
    for share in stats.classes:
        print(f"  {CLASSES[share.class_id]:10} {share.count:4} exemplars, {share.bytes:6,} bytes")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60)
