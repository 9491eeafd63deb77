"""The diary: what every training image did at every epoch, from logits computed anyway."""
