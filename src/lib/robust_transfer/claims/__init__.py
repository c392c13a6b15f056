"""Claims as executable tests: rules look at a reproduction, findings make a verdict."""
