"""Files to batches: sources, decoding, splits, augmentation, probes."""
