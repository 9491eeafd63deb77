"""Search for good values: many runs, whose values Optuna proposes, in one folder."""
