#!/usr/bin/env bash
# lightning 2.6.6: a run that goes on from the end of an epoch trains a batch too many, or loses an epoch.
#
# What: 12 rows in batches of 3, three epochs. Checkpoints are made after each step and at the end of each epoch. A new trainer
#   goes on from the two that were made when the first epoch had ended: after its last step, and at its end. Once
#   the length of the run is max_epochs=3, once max_steps=12; once with a DataLoader, once with torchdata's
#   StatefulDataLoader, whose state Lightning keeps.
# Guess: eight more batches, those of the second and the third epoch.
# Seen: with max_steps and a DataLoader, the first epoch, which was over, gets a fifth batch from the checkpoint of its end.
#   With StatefulDataLoader and the checkpoint after the last step, the second epoch has no batch at all.
# For this project: the data module keeps the states of its loaders itself, and gives a loader at the end of its epoch as one at
#   the beginning of the next. docs/howto/lightning.md says to count by max_epochs.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check lightning==2.6.6 torchdata==0.11.0 torch==2.14.1 numpy==2.4.6

cat > "$folder/resume.py" <<'PYTHON'
import logging
import tempfile
from importlib.metadata import version

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

ROWS = TensorDataset(torch.arange(12.0)[:, None])


class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen = []

    def training_step(self, batch, index):
        self.seen.append((self.current_epoch, index))
        return self.layer(batch[0]).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def run(loader, length, folder=None, checkpoint=None):
    """Epoch and place of each batch that was trained."""
    callbacks = []
    if folder:
        callbacks = [ModelCheckpoint(folder, "after-{step}", every_n_train_steps=1, save_top_k=-1)]
        callbacks += [ModelCheckpoint(folder, "end-of-{epoch}", save_top_k=-1)]
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", callbacks=callbacks, enable_checkpointing=bool(folder), **length, **quiet)
    trainer.fit(model := Model(), loader, ckpt_path=checkpoint, weights_only=True)
    return model.seen


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    print(f"lightning {version('lightning')}, torchdata {version('torchdata')}, torch {torch.__version__}")
    rest = [(epoch, index) for epoch in (1, 2) for index in range(4)]
    print(f"expected: (epoch, batch) {rest}")
    seen = {}
    for kind in (DataLoader, StatefulDataLoader):
        for length in ({"max_epochs": 3}, {"max_steps": 12}):
            with tempfile.TemporaryDirectory() as folder:
                run(kind(ROWS, batch_size=3), length, folder)
                for name in ("after-step=4", "end-of-epoch=0"):
                    found = run(kind(ROWS, batch_size=3), length, None, f"{folder}/{name}.ckpt")
                    seen[kind.__name__, *length, name] = found
                    print(f"seen:     {kind.__name__}, {length}, from {name}: {'the same' if found == rest else found}")
    print("source:   lightning/pytorch/loops/training_epoch_loop.py: reset() and on_run_start(); fit_loop.py: restarted_on_epoch_end")
    wrong = {key for key, found in seen.items() if found != rest}
    assert wrong == {
        ("DataLoader", "max_steps", "end-of-epoch=0"),
        ("StatefulDataLoader", "max_epochs", "after-step=4"),
        ("StatefulDataLoader", "max_steps", "after-step=4"),
    }, f"changed: {wrong}"
    assert seen["DataLoader", "max_steps", "end-of-epoch=0"][0] == (0, 4)
    assert not [at for at in seen["StatefulDataLoader", "max_epochs", "after-step=4"] if at[0] == 1]
    print("as described")
PYTHON
cd "$folder" && venv/bin/python -W ignore resume.py 2>/dev/null
