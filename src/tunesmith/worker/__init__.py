"""The process around a recipe: reads `spec.json`, trains, and leaves events, checkpoints, artifacts and `exit.json`."""
