"""The training core: rows without padding, attention that never crosses a row, loss only where there is a label."""
