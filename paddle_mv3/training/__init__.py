"""What a training needs beside its model: loss, metric, optimizers, schedule, moving average."""
