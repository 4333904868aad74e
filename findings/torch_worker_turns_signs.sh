#!/usr/bin/env bash
# torch 2.14.1: a DataLoader's worker turns the sign of numbers that came from ihfft or conj.
#
# What: a data set gives a row with torch.fft.ihfft of a signal, and its imaginary part, which is a float32 tensor. It is read
#   without workers and with one, with batch_size=None; and with batch_size=2, where rows are stacked.
# Guess: the same numbers, whoever reads them.
# Seen: without workers they are right. From a worker each imaginary part has the other sign, without an error; stacked in a
#   worker they are a RuntimeError, stacked without one they are right. ihfft ends in conj(), which only sets a mark on the
#   tensor (is_conj), and so does its .imag (is_neg). What goes to another process is the memory and the shape: the mark
#   stays behind. pickle and torch.save take it along, so a test by pickling does not show it.
# For this project: the tensors of ReplayDataset and BufferDataset are made from numpy's arrays, which have no such marks.
#   A transform that is laid over them ends with .resolve_conj().resolve_neg() where it works with complex numbers.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6

cat > "$folder/signs.py" <<'PYTHON'
import pickle

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

SIGNAL = torch.arange(4.0)


class Spectra(Dataset):
    def __init__(self, resolve=False):
        self.resolve = resolve

    def __len__(self):
        return 2

    def __getitem__(self, index):
        spectrum = torch.fft.ihfft(SIGNAL)
        row = {"spectrum": spectrum, "imag": spectrum.imag}
        return {name: t.resolve_conj().resolve_neg() for name, t in row.items()} if self.resolve else row


def read(num_workers, batch_size=None, resolve=False):
    try:
        row = next(iter(DataLoader(Spectra(resolve), batch_size=batch_size, num_workers=num_workers)))
    except RuntimeError as error:
        return f"RuntimeError: {str(error).splitlines()[-1]}"
    if batch_size is not None:
        row = {name: tensor[0] for name, tensor in row.items()}
    assert row["spectrum"].imag.tolist() == row["imag"].tolist()
    return row["imag"].tolist()


if __name__ == "__main__":
    right = np.fft.ihfft(SIGNAL.numpy()).imag.tolist()
    imag = torch.fft.ihfft(SIGNAL).imag
    seen = {
        "no worker": read(0),
        "a worker": read(1),
        "no worker, stacked": read(0, batch_size=2),
        "a worker, stacked": read(1, batch_size=2),
        "a worker, resolved": read(1, resolve=True),
        "pickle": pickle.loads(pickle.dumps(imag)).tolist(),
    }
    print(f"torch {torch.__version__}, numpy {np.__version__}")
    print(f"expected: {right}, as numpy says, however it is read")
    for way, numbers in seen.items():
        print(f"seen:     {way}: {numbers}{'' if numbers == right else '  <- wrong'}")
    print(f"          the tensor: {imag.dtype}, is_neg {imag.is_neg()}; the spectrum's is_conj {torch.fft.ihfft(SIGNAL).is_conj()}")
    print("source:   torch/multiprocessing/reductions.py: reduce_tensor and rebuild_tensor know storage, size and stride, and")
    print("          nothing of is_conj and is_neg; torch/_utils.py, get_tensor_metadata, has them for torch.save")
    for way, numbers in seen.items():
        if way == "a worker":
            assert numbers == [-number for number in right], f"changed: {way}: {numbers}"
        elif way == "a worker, stacked":
            assert str(numbers).startswith("RuntimeError"), f"changed: {way}: {numbers}"
        else:
            assert numbers == right, f"changed: {way}: {numbers}"
    print("as described")
PYTHON
cd "$folder" && venv/bin/python -W ignore signs.py
