#!/usr/bin/env bash
# scikit-learn 1.9.1: GaussianNB that learns its samples one by one is right as often as chance; in batches of ten, in eight of ten cases.
#
# What: half of scikit-learn's digits, learned by fit() and by partial_fit(): all at once, in batches of fifty, ten and two, one by one, one class at a
#   time. The other half is told apart. partial_fit() keeps counts, means and variances, of which any parts give the same as the whole.
# Guess: the same model whatever the batches, but for rounding.
# Seen: one by one, 10 % are right, as by chance: all is taken for one class, and the variances of pixels that never change are 0. For
#   var_smoothing is a share of the variance within the last batch, and that of a single sample is 0. It takes the last batch's smoothing off
#   variances that another one was put on, so that with the same samples class by class the answers differ, too. No error, but numpy's
#   warnings of a division by zero. A later call with two samples does not mend it.
# For this project: nothing in it is learned by scikit-learn. Who compares it with scikit-learn's incremental learners gives them batches, and no
#   single samples.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check scikit-learn==1.9.1 numpy==2.4.6 scipy==1.17.1

"$folder/venv/bin/python" -I -W ignore - <<'PYTHON'
import numpy as np
import sklearn
from sklearn.datasets import load_digits
from sklearn.naive_bayes import GaussianNB

pixels, digits = load_digits(return_X_y=True)
learned, tested = np.arange(0, len(digits), 2), np.arange(1, len(digits), 2)
print(f"scikit-learn {sklearn.__version__}, numpy {np.__version__}; {len(learned)} digits learned, {len(tested)} tested")
whole = GaussianNB().fit(pixels[learned], digits[learned])
expected = whole.predict(pixels[tested])
print(f"expected: as by fit(), {np.mean(expected == digits[tested]):.3f} right, smoothing {whole.epsilon_:.1e}")


def learn(batches):
    model = GaussianNB()
    for batch in batches:
        model.partial_fit(pixels[batch], digits[batch], classes=np.arange(10))
    return model


ways = {
    "all at once": [learned],
    "by fifty": np.array_split(learned, len(learned) // 50),
    "by ten": np.array_split(learned, len(learned) // 10),
    "by two": np.array_split(learned, len(learned) // 2),
    "one by one": np.split(learned, len(learned)),
    "by class": [learned[digits[learned] == digit] for digit in range(10)],
}
right, others, models = {}, {}, {}
for name, batches in ways.items():
    models[name] = learn(batches)
    answers = models[name].predict(pixels[tested])
    right[name], others[name] = np.mean(answers == digits[tested]), int(np.sum(answers != expected))
    print(f"seen: {name:12} {right[name]:.3f} right, {others[name]:3} other answers than fit(), smoothing {models[name].epsilon_:.1e}")
same = all(np.allclose(model.theta_, whole.theta_) and (model.class_count_ == whole.class_count_).all() for model in models.values())
print(f"seen: means and counts are {'all the same' if same else 'others'}")
later = models["one by one"].partial_fit(pixels[learned[:2]], digits[learned[:2]]).score(pixels[tested], digits[tested])
print(f"seen: one by one, then two of them once more: {later:.3f} right")
print("source: sklearn/naive_bayes.py, _partial_fit: epsilon_ = var_smoothing * max(var(X)) of this call's X, taken off var_ at the beginning and put on")
print("        at the end, whatever was put on at the last call")
assert others["all at once"] == 0 and same, f"changed: {others}"
assert right["one by one"] < 0.12 and right["by two"] > 0.75 and right["by ten"] > 0.75, f"changed: {right}"
assert others["by class"] > 0, f"changed: {others}"
assert later < 0.12, f"changed: {later}"
print("as described")
PYTHON
