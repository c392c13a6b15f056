"""Side-by-side measurements: the engine, a textbook loop, other libraries, the bare hardware."""
