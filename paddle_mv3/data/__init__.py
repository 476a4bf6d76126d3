"""Images and labels: files, transforms, sampling, batches."""
