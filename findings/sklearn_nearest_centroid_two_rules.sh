#!/usr/bin/env bash
# scikit-learn 1.9.1: NearestCentroid.predict() is the nearest mean while all classes are as likely, and another classifier otherwise.
#
# What: two classes whose means differ by 3 in a coordinate that scatters by 1, beside one that scatters by 20, and a mean that is off by 10 there.
#   predict() against the highest of predict_proba() and decision_function(), with priors="uniform", the default. Then priors="empirical" with 500
#   samples of each class, and with one of them left out. Then priors=[0.5, 0.5] as an array.
# Guess: the class that predict() names has the highest probability. One sample of a thousand moves the border by next to nothing. An array will
#   do for priors, as the documentation says "array-like".
# Seen: predict() measures plain distances, and the other two divide each coordinate by its scatter within classes; they disagree for a third.
#   Where the shares of the classes are not all equal, predict() divides, too: one sample less changes a third of its answers. priors as a
#   list will do; as an array, it is a ValueError about the truth value of an array.
# For this project: nothing in it is scikit-learn's. Who compares the refitted head (learner/training/refit.py) with iCaRL's nearest mean by
#   NearestCentroid takes predict() with priors="uniform", and no probabilities.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check scikit-learn==1.9.1 numpy==2.4.6 scipy==1.17.1

"$folder/venv/bin/python" -I -W error - <<'PYTHON'
import numpy as np
import sklearn
from sklearn.neighbors import NearestCentroid

EACH = 500
rng = np.random.default_rng(5)
features = rng.normal(size=(2 * EACH, 2)) * (1, 20)
features[EACH:] += (3, 10)
classes = np.repeat((0, 1), EACH)


def by_hand(model, scaled):
    """The nearest mean, by plain distance or divided by the scatter within classes."""
    own = np.concatenate([features[classes == label] - features[classes == label].mean(axis=0) for label in (0, 1)])
    unit = own.std(axis=0) if scaled else 1
    return (((features[:, None] - model.centroids_[None]) / unit) ** 2).sum(axis=2).argmin(axis=1)


uniform = NearestCentroid().fit(features, classes)
predicted = uniform.predict(features)
likely = uniform.predict_proba(features).argmax(axis=1)
decided = (uniform.decision_function(features) > 0).astype(int)
even = NearestCentroid(priors="empirical").fit(features, classes)
odd = NearestCentroid(priors="empirical").fit(features[1:], classes[1:])
as_list = NearestCentroid(priors=[0.5, 0.5]).fit(features, classes)
try:
    NearestCentroid(priors=np.array([0.5, 0.5])).fit(features, classes)
    as_array = "no error"
except ValueError as error:
    as_array = f"ValueError: {error}"

disagree, moved = int((predicted != likely).sum()), int((even.predict(features) != odd.predict(features)).sum())
print(f"scikit-learn {sklearn.__version__}, numpy {np.__version__}; {2 * EACH} samples of two classes")
print(f"expected: predict() is the class of the highest probability; seen: not for {disagree}")
print(f"    right by predict(): {(predicted == classes).mean():.3f}, by predict_proba(): {(likely == classes).mean():.3f}")
print(f"expected: with priors='empirical' one sample less changes next to nothing; seen: {moved} answers are others")
print(f"    right with all: {(even.predict(features) == classes).mean():.3f}, with one less: {(odd.predict(features) == classes).mean():.3f}")
print(f"expected: priors as an array will do; seen: {as_array}")
print("source: sklearn/neighbors/_nearest_centroid.py: predict() takes pairwise_distances_argmin where np.isclose(class_prior_, 1 / len(classes_)).all(), else")
print("        _decision_function, which divides by within_class_std_dev_; fit() compares `self.priors == \"empirical\"`")
assert (predicted == by_hand(uniform, scaled=False)).all(), "changed: predict() by plain distance"
assert (likely == decided).all() and (likely != by_hand(uniform, scaled=True)).mean() < 0.01, "changed: predict_proba()"
assert 300 < disagree < 420, f"changed: {disagree}"
assert (even.predict(features) == predicted).all() and 300 < moved < 420, f"changed: {moved}"
assert (as_list.predict(features) == predicted).all() and as_array.startswith("ValueError: The truth value"), f"changed: {as_array}"
print("as described")
PYTHON
