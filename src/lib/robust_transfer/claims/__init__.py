"""Claims as executable tests: rules look at evidence, findings make a verdict."""
