"""Which services there are, what each says of itself, and whether it tells the truth."""
