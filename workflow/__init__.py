"""The pipeline's work as jobs on many machines, by an engine that exists; see ``Snakefile``."""
