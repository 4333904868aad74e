#!/usr/bin/env bash
# safetensors 0.8.0 saves the conjugate of what torch computed, without an error.
#
# What: a tensor of complex numbers, the answer of torch.fft.ihfft or of conj(), is saved and loaded with safetensors.torch,
#   and with torch.save for comparison.
# Guess: what is loaded is equal to what was saved, or it is refused, as a tensor is that is not contiguous.
# Seen: every imaginary part has the other sign. torch conjugates by a bit of the tensor, which leaves the memory as it is;
#   the tensor says that it is contiguous, safetensors writes the memory and has no place for the bit. contiguous() is no
#   help, since it has nothing to do; resolve_conj() and clone() are.
# For this project: weights are saved so (learner/model/backbones/weights.py), and arrays of a record are made by numpy;
#   both are real numbers. Who keeps spectra calls resolve_conj() first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check safetensors==0.8.0 torch==2.14.1 numpy==2.4.6 packaging

"$folder/venv/bin/python" -I - <<'PYTHON'
import io

import safetensors
import torch
from safetensors.torch import load, save


def by_safetensors(tensor):
    return load(save({"x": tensor}))["x"]


def by_torch(tensor):
    file = io.BytesIO()
    torch.save(tensor, file)
    file.seek(0)
    return torch.load(file)


made = {
    "ihfft": torch.fft.ihfft(torch.tensor([1.0, 2.0, 4.0])),
    "conj": torch.tensor([1 + 2j, 3 - 4j]).conj(),
}
print(f"safetensors {safetensors.__version__}, torch {torch.__version__}: saved and loaded again")
for name, tensor in made.items():
    found = by_safetensors(tensor)
    print(f"expected: {name}: {tensor.resolve_conj().tolist()}, or an error")
    print(f"seen:     {name}: {found.tolist()}")
    assert tensor.is_conj() and tensor.is_contiguous() and tensor.contiguous() is tensor, "changed: torch"
    assert not torch.equal(found, tensor) and torch.equal(found, tensor.conj()), f"changed: {found}"
    assert torch.equal(by_torch(tensor), tensor)
    assert torch.equal(by_safetensors(tensor.resolve_conj()), tensor)
    assert torch.equal(by_safetensors(tensor.clone()), tensor)
try:
    save({"x": torch.zeros(2, 3).T})
except ValueError as error:
    print(f"          a tensor that is not contiguous: {str(error)[:60]}...")
else:
    raise AssertionError("changed: a tensor that is not contiguous is saved")
print("source:   _flatten_as_ptr and _to_ndarray in safetensors/torch.py: is_contiguous(), then data_ptr();")
print("          safetensors/safetensors issue 831. torch: conj() sets a bit, see torch.Tensor.is_conj")
print("as described")
PYTHON
