"""Fine-tuning: schedule, parameter groups, phases and stored features."""
