"""Classification and regression from tables."""
