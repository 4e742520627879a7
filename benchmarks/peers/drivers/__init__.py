"""What drives one system each. A driver runs in the environment of its system, so it imports nothing but that."""
