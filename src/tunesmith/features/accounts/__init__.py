"""Who has an account, and how they prove it."""
