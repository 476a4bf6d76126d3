"""The largest mean absolute difference that each step lets pass, and why.

reprod_log's own 1e-6 is kept where it can be: nowhere that two frameworks add float32 numbers in
another order. Measured with `python benchmarks/thresholds.py`, right ports with 20 sets of live
random weights each, 2 x86 cores; small | large is the largest difference seen.
"""

# 1.1e-6 | 1.3e-6, logits of mean size 0.5. Grows with the logits.
LOGITS = 1e-5

# 1.4e-6 | 2.4e-6. A loss of 7 is stored in steps of 4.8e-7.
LOSS = 1e-5

# 2.9e-6 | 1.5e-5 over three iterations: where an activation lies at a kink, one framework's
# gradient passes and the other's does not.
TRAIN_LOSS = 1e-4

# The same bytes, decoded by the same Pillow, through the same float32 operations.
DATA = 0.0

# Counts, divided by a count.
METRIC = 0.0

# Python floats on both sides; a power taken in one, a product in the other: an ulp, 1e-19.
LEARNING_RATE = 1e-12
