"""The largest mean absolute difference that each step lets pass, and why.

reprod_log's own 1e-6 is kept where it can be: nowhere that two frameworks add float32 numbers in
another order. Measured with `python benchmarks/thresholds.py`, right ports with 20 sets of live
random weights each, 2 x86 cores; small | large is the largest difference seen.
"""

# 1.1e-6 | 1.3e-6, logits of mean size 0.5. Grows with the logits.
LOGITS = 1e-5

# 1.4e-6 | 2.4e-6. A loss of 7 is stored in steps of 4.8e-7.
LOSS = 1e-5

# 9.5e-6 in 400 batches of random logits: a product and a sum over all classes on both sides.
SOFT_LOSS = 5e-5

# 2.9e-6 | 1.5e-5 over three iterations: where an activation lies at a kink, one framework's
# gradient passes and the other's does not.
TRAIN_LOSS = 1e-4

# The same bytes, decoded by the same Pillow, through the same float32 operations.
DATA = 0.0

# Counts, divided by a count.
METRIC = 0.0

# 1.4e-6 | 4.8e-7, means of losses of 13: labels are drawn so that many are wrong.
EVAL_LOSS = 1e-4

# Python floats on both sides; a power taken in one, a product in the other: an ulp, 1e-19.
LEARNING_RATE = 1e-12

# In float64, relative to the array's largest value (`precision.to_float64`).
# Eval mode, 1.6e-14 at most; a hard-sigmoid slope of 0.1666667 shows as 1e-8.
FORWARD_FLOAT64 = 1e-12

# The same with weights at the extremes (weights.make_extreme): 2e-14 at most, 18 variants.
EXTREME_FLOAT64 = 1e-11

# The same of saved records, whose reference still has constants that Paddle rounds to float32, as
# a LayerNorm's epsilon: a right port differs by 1e-12 to 1e-8.
RECORDS_FLOAT64 = 1e-7

# A network can amplify rounding. PyTorch's own float32 error, times 2e-9 (float64's step over
# float32's), is the order to expect in float64; a right port with extreme weights (batch norm
# variances of 1e-6) reached 63 times that. The bound is never less than this many times it.
AMPLIFICATION = 1000.0

# Train mode, 1.3e-13 at most: batch norm divides by a deviation that it has just computed.
TRAIN_FLOAT64 = 1e-11

# 6e-8 at most, on the scale of the neighbouring parameters: Paddle's average pooling divides by a
# float32, PyTorch's hard-sigmoid multiplies by one.
GRADIENT_FLOAT64 = 1e-6

# Paddle's own float32 error over PyTorch's: 0.6 to 3.1 on right ports, 8.4 with extreme weights;
# half precision on the way is over 1000.
IMPRECISE = 30.0

# Twenty float32 steps of an optimizer, over the way that the weights have gone: 3e-6 at most, over
# ten seeds.
FREE_RUN = 1e-4
