"""The life of a run: assemble, prepare, fit, evaluate, predict, summarise."""
